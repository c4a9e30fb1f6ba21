package dlq

// GET /v1/dead-letters and GET /v1/failure-groups.

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

// ListQuery is what both lists are filtered by. It is exported because huma
// leaves the fields of an unexported embedded type unread.
type ListQuery struct {
	Kind   string    `query:"kind"`
	Queue  string    `query:"queue"`
	Group  string    `query:"group" doc:"fingerprint of a failure group"`
	State  string    `query:"state" enum:"open,held,replaying,resolved,discarded" doc:"all states if absent"`
	Reason string    `query:"reason" enum:"permanent,exhausted,expired,poison,undecodable,schema,unknown_kind,too_large,unknown,blocked" doc:"all reasons if absent"`
	Text   string    `query:"text" minLength:"3" maxLength:"1000" doc:"of groups whose error class and message have this text; numbers, ids and quoted strings of both stand for any"`
	Since  time.Time `query:"since" doc:"died at or after, RFC 3339"`
	Until  time.Time `query:"until" doc:"died before, RFC 3339"`
}

func (in *ListQuery) filter() Filter {
	return Filter{Kind: in.Kind, Queue: in.Queue, Group: in.Group, State: in.State, Reason: in.Reason, Text: in.Text, Since: in.Since, Until: in.Until}
}

type lettersInput struct {
	ListQuery
	Key    string `query:"key"`
	Where  string `query:"where" maxLength:"4000" doc:"a jq condition, such as .headers[\"x-tenant\"] == \"acme\" and .payload.amount > 100: at most 2,000 letters are looked at for a page; needs the verb read-payload"`
	Cursor string `query:"cursor" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type lettersOutput struct {
	Body struct {
		Letters []Entry `json:"letters"`
		Next    string  `json:"next,omitempty" doc:"cursor of the next page; absent on the last"`
		Looked  int     `json:"looked,omitempty" doc:"with where: letters that were looked at for this page"`
	}
}

type letterInput struct {
	ID string `path:"id" doc:"a letter's id, or a task's: its latest letter"`
}

type letterOutput struct{ Body LetterView }

// LetterView is a letter with what a token may see of its content.
type LetterView struct {
	Entry
	Payload       json.RawMessage `json:"payload,omitempty" doc:"if it is JSON; needs the verb read-payload"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty" doc:"if it is not JSON; needs the verb read-payload"`
	Headers       json.RawMessage `json:"headers,omitempty" doc:"[[name, base64 value], …]; needs the verb read-payload"`
	Hidden        bool            `json:"hidden,omitempty" doc:"payload and headers need the verb read-payload"`
	Tombstone     bool            `json:"tombstone,omitempty" doc:"the record had no value at all"`
	Cuts          string          `json:"cuts,omitempty" doc:"what was too large to be kept; only where one letter is shown"`
	Past          []PastReplay    `json:"past,omitempty" doc:"replays of the task's letters, the latest first; only where one letter is shown"`
}

type groupsInput struct {
	ListQuery
	Care      string `query:"care" enum:"open,acknowledged,muted,resolved,regressed" doc:"what people say of the group; all if absent"`
	HideMuted bool   `query:"hide_muted" doc:"leave muted groups out"`
	Where     string `query:"where" maxLength:"4000" doc:"groups with a letter for which this jq condition is true, of the latest 10,000 letters that the rest chooses; needs the verb read-payload"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type groupsOutput struct {
	Body struct {
		Groups []Group `json:"groups"`
		Looked int     `json:"looked,omitempty" doc:"with where: letters that were looked at"`
		More   bool    `json:"more,omitempty" doc:"with where: there are older letters, which were not looked at"`
	}
}

type groupInput struct {
	FP string `path:"fp" doc:"fingerprint"`
}

type groupOutput struct{ Body Group }

// Routes registers the routes of dead letters and failure groups.
func (s *Letters) Routes(a *api.API) {
	op := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"dead letters"},
			RejectUnknownQueryParameters: true} // a misspelt filter would show everything
	}
	api.Register(a, api.ReadMeta, op("list-dead-letters", "/v1/dead-letters", "List dead letters, latest deaths first"), s.httpList)
	api.Register(a, api.ReadMeta, op("get-dead-letter", "/v1/dead-letters/{id}", "One dead letter with its attempts"), s.httpGet)
	api.Register(a, api.ReadMeta, op("list-failure-groups", "/v1/failure-groups", "List causes of death, most open letters first"), s.httpGroups)
	api.Register(a, api.ReadMeta, op("get-failure-group", "/v1/failure-groups/{fp}", "One cause of death, with its last day hour by hour"), s.httpGroup)
	s.exportRoute(a)
	s.decideRoutes(a)
	s.joinRoutes(a)
}

func (s *Letters) httpList(ctx context.Context, in *lettersInput) (*lettersOutput, error) {
	f := in.filter()
	f.Key = in.Key
	if err := mayAsk(ctx, in.Where); err != nil {
		return nil, err
	}
	out := &lettersOutput{}
	var err error
	if in.Where != "" {
		out.Body.Letters, out.Body.Next, out.Body.Looked, err = s.Where(ctx, f, in.Where, in.Cursor, in.Limit)
	} else {
		out.Body.Letters, out.Body.Next, err = s.List(ctx, f, in.Cursor, in.Limit)
	}
	if errors.Is(err, ErrCursor) {
		return nil, api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "cursor is not one of this list",
			api.FieldError{Pointer: "#/query/cursor", Detail: "is not a cursor"}).WithNext("leave cursor out to begin at the first page")
	}
	if err != nil {
		return nil, wrongWhere(vague(err))
	}
	if out.Body.Letters == nil {
		out.Body.Letters = []Entry{}
	}
	return out, nil
}

// mayAsk refuses a condition to who may not see payloads: its answer tells what they hold.
func mayAsk(ctx context.Context, where string) error {
	if where != "" && !api.Can(ctx, api.ReadPayload) {
		return api.NewProblem(http.StatusForbidden, "forbidden", "a condition over payloads and headers needs the verb read-payload")
	}
	return nil
}

// wrongWhere tells what is wrong with a condition.
func wrongWhere(err error) error {
	const next = "try it on one letter: perdure dlq show ID -o json | jq '…'"
	var syntax *SyntaxError
	var stopped *StoppedError
	switch {
	case errors.As(err, &syntax):
		return api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "where is not a jq condition", syntax.Fields()...).WithNext(next)
	case errors.As(err, &stopped):
		return api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "where was stopped at a limit", api.FieldError{Pointer: "#/query/where", Detail: stopped.Error()}).WithNext(next)
	}
	if errors.Is(err, ErrNoJQ) {
		return api.NewProblem(http.StatusNotImplemented, "no-jq", err.Error())
	}
	return err
}

func (s *Letters) httpGet(ctx context.Context, in *letterInput) (*letterOutput, error) {
	e, err := s.Get(ctx, in.ID)
	if errors.Is(err, ErrNoLetter) {
		return nil, api.NewProblem(http.StatusNotFound, "no-such-letter", "no dead letter has this id").
			WithNext("perdure dlq ls; a task that is not dead: perdure tasks get ID")
	}
	if err != nil {
		return nil, err
	}
	v := view(e, api.Can(ctx, api.ReadPayload))
	v.Cuts = cuts(e)
	if v.Past, err = s.past(ctx, e, !v.Hidden); err != nil {
		return nil, err
	}
	return &letterOutput{Body: v}, nil
}

func view(e *Entry, all bool) LetterView {
	v := LetterView{Entry: *e, Hidden: !all, Tombstone: e.Payload == nil}
	if !all {
		return v
	}
	v.Headers = e.Headers
	if json.Valid(e.Payload) {
		v.Payload = e.Payload
	} else {
		v.PayloadBase64 = e.Payload
	}
	return v
}

func (s *Letters) httpGroups(ctx context.Context, in *groupsInput) (*groupsOutput, error) {
	f := in.filter()
	f.Care, f.HideMuted = in.Care, in.HideMuted
	if err := mayAsk(ctx, in.Where); err != nil {
		return nil, err
	}
	out := &groupsOutput{}
	var err error
	if in.Where != "" {
		out.Body.Groups, out.Body.Looked, out.Body.More, err = s.GroupsWhere(ctx, f, in.Where, in.Limit)
	} else {
		out.Body.Groups, err = s.Groups(ctx, f, in.Limit)
	}
	if err != nil {
		return nil, wrongWhere(vague(err))
	}
	if out.Body.Groups == nil {
		out.Body.Groups = []Group{}
	}
	return out, nil
}

func (s *Letters) httpGroup(ctx context.Context, in *groupInput) (*groupOutput, error) {
	g, err := s.Group(ctx, in.FP)
	if errors.Is(err, ErrNoGroup) {
		return nil, noGroup()
	}
	if err != nil {
		return nil, err
	}
	return &groupOutput{Body: *g}, nil
}

func noGroup() *api.Problem {
	return api.NewProblem(http.StatusNotFound, "no-such-group", "no dead letter has this fingerprint").WithNext("perdure dlq groups")
}

// vague tells a text that is too many groups'.
func vague(err error) error {
	if !errors.Is(err, ErrVague) {
		return err
	}
	return api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "text is that of too many failure groups",
		api.FieldError{Pointer: "#/query/text", Detail: err.Error() + ": say more of it"}).WithNext("perdure dlq groups --kind KIND --text TEXT")
}
