package api

// RFC 9457 problems, the only form of an error of this API.

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// ProblemPrefix begins the type of every problem.
const ProblemPrefix = "urn:perdure:problem:"

// Problem is an error as the API answers it. Build it with NewProblem. It
// never holds a value that the client sent, only where that value stood.
type Problem struct {
	Type   string       `json:"type" doc:"urn:perdure:problem:<name>; stable, for programs to compare"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty" doc:"what is wrong with this request"`
	Errors []FieldError `json:"errors,omitempty" doc:"where it is wrong"`
	Next   string       `json:"next,omitempty" doc:"the command or curl that mends it"`

	retryAfter time.Duration
}

// FieldError names one wrong place by JSON pointer, in URI fragment form:
// "#/payload/amount", "#" for the whole.
type FieldError struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// NewProblem returns a problem named urn:perdure:problem:<name>.
func NewProblem(status int, name, detail string, errs ...FieldError) *Problem {
	return &Problem{Type: ProblemPrefix + name, Title: http.StatusText(status), Status: status, Detail: detail, Errors: errs}
}

// WithNext sets what mends it, and returns p.
func (p *Problem) WithNext(next string) *Problem {
	p.Next = next
	return p
}

// WithRetryAfter makes the answer carry Retry-After, rounded up to whole
// seconds, and returns p.
func (p *Problem) WithRetryAfter(d time.Duration) *Problem {
	p.retryAfter = d
	return p
}

// Name is the last part of the type.
func (p *Problem) Name() string { return strings.TrimPrefix(p.Type, ProblemPrefix) }

// Error makes a Problem an error that a handler returns.
func (p *Problem) Error() string { return p.Name() + ": " + p.Detail }

// GetStatus is for huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is for huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders is for huma: Retry-After, and what a 401 must say.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.retryAfter+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="perdure"`)
	}
	return h
}

// Unavailable is the 503 of a server that is away. what names it ("Postgres").
func Unavailable(what, next string) *Problem {
	return NewProblem(http.StatusServiceUnavailable, "unavailable", what+" does not answer; nothing was accepted").
		WithRetryAfter(time.Second).WithNext(next)
}

// fromHuma turns an error that huma made itself (parameters, bodies) into a
// Problem; it is a huma.Transformer. The values that huma echoes are dropped.
func fromHuma(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := NewProblem(m.Status, problemName(m.Status), m.Detail)
	if m.Status == http.StatusInternalServerError {
		p.Detail = "internal error; the server's log has it"
		return p, nil
	}
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, FieldError{Pointer: pointer(e.Location), Detail: e.Message})
	}
	return p, nil
}

func problemName(status int) string {
	switch status {
	case http.StatusUnprocessableEntity:
		return "invalid-request"
	case http.StatusInternalServerError:
		return "internal"
	}
	return strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "-")
}

// pointer turns huma's location ("body.items[3].tags", "query.limit") into a
// JSON pointer; the body is the root.
func pointer(location string) string {
	location = strings.TrimPrefix(location, "body")
	location = strings.NewReplacer("[", ".", "]", "").Replace(location)
	location = strings.TrimPrefix(location, ".")
	if location == "" {
		return "#"
	}
	return "#/" + strings.ReplaceAll(location, ".", "/")
}
