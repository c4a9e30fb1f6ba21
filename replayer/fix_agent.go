package replayer

// A repair agent: asked by HTTP about one letter at a time, signed and in limited
// time. What it answers is held to the same rules as any fixer's payload.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// fixAway is an agent that cannot be reached, or cannot answer now; the letter
// stays as it is.
type fixAway string

func (e fixAway) Error() string { return string(e) }

// Limits of an agent's answer.
const (
	maxAgentAnswer = 2 << 20 // bytes
	maxAgentReason = 500     // bytes
	agentTries     = 3       // where it is away, within its time
	agentPause     = 200 * time.Millisecond
)

// FixHeader marks a request to a repair agent; its value is always "ask".
const FixHeader = "Perdure-Fix"

// agent is a repair agent as a repairer.
type agent struct {
	replay    string
	url       *url.URL
	secret    []byte // nil = unsigned
	timeout   time.Duration
	transport http.RoundTripper // follows no redirect
}

// pin is what a plan's hash holds of a fixer of the catalog.
func pin(f *schemas.Fixer) string {
	return sha256Hex(f.JQ + "\x00" + f.URL + "\x00" + f.SecretEnv + "\x00" + f.Timeout.String())
}

func (r *Replayer) agent(j *job, f *schemas.Fixer) (*agent, error) {
	u, err := url.Parse(f.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL of %s cannot be read", f.Name)
	}
	a := &agent{replay: j.id, url: u, timeout: f.Timeout, transport: r.transport}
	if f.SecretEnv != "" {
		if a.secret, err = webhook.ParseSecret(r.deps.Getenv(f.SecretEnv)); err != nil {
			return nil, fmt.Errorf("%s: secret_env %s %w", f.Name, f.SecretEnv, err)
		}
	}
	return a, nil
}

func (a *agent) close() {}

// fix asks until it has an answer, or the letter's time is over.
func (a *agent) fix(ctx context.Context, s *subject) (remedy, error) {
	body, err := s.question(a.replay)
	if err != nil {
		return remedy{}, err
	}
	one, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	for try := 1; ; try++ {
		v, err := a.ask(one, s, body)
		var away fixAway
		switch {
		case ctx.Err() != nil:
			return remedy{}, ctx.Err()
		case one.Err() != nil && err != nil:
			return remedy{}, fixLimit(fmt.Sprintf("the agent took more than %s", a.timeout))
		case !errors.As(err, &away) || try == agentTries:
			return v, err
		}
		select {
		case <-one.Done():
		case <-time.After(agentPause << try):
		}
	}
}

func (a *agent) ask(ctx context.Context, s *subject, body []byte) (remedy, error) {
	res, err := a.transport.RoundTrip(a.request(ctx, s, body, time.Now()))
	if err != nil {
		return remedy{}, fixAway("the agent cannot be reached: " + err.Error())
	}
	defer res.Body.Close() //nolint:errcheck // read what was wanted, or the error is in the read
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAgentAnswer+1))
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return remedy{}, fixAway("the agent's answer broke off")
	case len(answer) > maxAgentAnswer:
		return remedy{}, fixLimit(fmt.Sprintf("the agent's answer is larger than %d bytes", maxAgentAnswer))
	case res.StatusCode == http.StatusNoContent:
		return remedy{}, nil
	case res.StatusCode == http.StatusTooManyRequests, res.StatusCode >= 500:
		return remedy{}, fixAway(fmt.Sprintf("the agent answered %d", res.StatusCode))
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return remedy{}, fixError(fmt.Sprintf("the agent answered %d, and no redirect is followed", res.StatusCode))
	case res.StatusCode != http.StatusOK:
		return remedy{}, fixError(fmt.Sprintf("the agent answered %d: want 200 or 204", res.StatusCode))
	case media != "application/json":
		return remedy{}, fixError("the agent's answer is not application/json")
	}
	return readAnswer(answer, s)
}

// agentAnswer is what an agent says; empty: nothing.
type agentAnswer struct {
	Patch         json.RawMessage `json:"patch"`
	Payload       json.RawMessage `json:"payload"`
	PayloadBase64 *string         `json:"payload_base64"`
	Decision      string          `json:"decision"`
	Reason        string          `json:"reason"`
}

func readAnswer(b []byte, s *subject) (remedy, error) {
	var a agentAnswer
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return remedy{}, fixError("the agent's answer is not an object of patch, payload, payload_base64, decision and reason")
	}
	given := 0
	for _, is := range []bool{a.Patch != nil, a.Payload != nil, a.PayloadBase64 != nil, a.Decision != ""} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return remedy{}, nil
	case given > 1:
		return remedy{}, fixError("the agent answered more than one of patch, payload, payload_base64 and decision")
	case a.Patch != nil:
		patch, wrong := parsePatch("#/patch", a.Patch)
		if wrong != nil {
			return remedy{}, fixError(fmt.Sprintf("the agent's answer: %s %s", wrong[0].Pointer, wrong[0].Detail))
		}
		return patcher(patch).fix(context.Background(), s)
	case a.Payload != nil && !schemas.IsJSON(s.contentType):
		return remedy{}, fixError("the agent answered payload, and the letter's is not JSON: want payload_base64")
	case a.Payload != nil:
		return remedy{payload: a.Payload}, nil
	case a.PayloadBase64 != nil:
		payload, err := base64.StdEncoding.DecodeString(*a.PayloadBase64)
		if err != nil || len(payload) == 0 {
			return remedy{}, fixError("the agent's payload_base64 is not base64, or empty")
		}
		return remedy{payload: payload}, nil
	}
	v := remedy{decision: a.Decision, reason: a.Reason[:min(len(a.Reason), maxAgentReason)]}
	switch {
	case v.decision != "replay" && v.decision != "hold" && v.decision != "discard":
		return remedy{}, fixError("the agent's decision is none of replay, hold and discard")
	case v.decision != "replay" && v.reason == "":
		return remedy{}, fixError("the agent's decision has no reason")
	}
	return v, nil
}

// question is the letter: what it was, why it died, what was tried.
func (s *subject) question(replay string) ([]byte, error) {
	doc := s.Document()
	delete(doc, "payload")
	doc["version"], doc["replay"], doc["content_type"], doc["attempts"] = 1, replay, s.contentType, json.RawMessage(s.attempts)
	if schemas.IsJSON(s.contentType) && json.Valid(s.Payload) {
		doc["payload"] = json.RawMessage(s.Payload)
	} else {
		doc["payload_base64"] = s.Payload
	}
	return json.Marshal(doc)
}

// request is the same for every try, its time and signature excepted: the key
// tells an agent that it was asked before.
func (a *agent) request(ctx context.Context, s *subject, body []byte, now time.Time) *http.Request {
	h := http.Header{}
	id, stamp := a.replay+"-"+s.Letter, strconv.FormatInt(now.Unix(), 10)
	h.Set("Content-Type", schemas.JSONContentType)
	h.Set("Accept", schemas.JSONContentType)
	h.Set("User-Agent", "perdure")
	h.Set(FixHeader, "ask")
	h["idempotency-key"] = []string{id} //nolint:staticcheck // SA1008: else net/http sends it again by itself
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	if a.secret != nil {
		h.Set("Webhook-Signature", webhook.Sign(a.secret, id, stamp, body))
	}
	if until, ok := ctx.Deadline(); ok {
		h.Set("Perdure-Timeout", strconv.FormatFloat(max(until.Sub(now), 0).Seconds(), 'f', 3, 64))
		h.Set("Perdure-Deadline", until.UTC().Format(time.RFC3339Nano))
	}
	req := &http.Request{
		Method: http.MethodPost, URL: a.url, Host: a.url.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	return req.WithContext(ctx)
}

// discardLetter takes the job's row first, as moveLetters does: an agent may answer long
// after Pause or Cancel has, and what it says is final.
const discardLetter = `
with j as materialized (select replay from perdure.replays where replay = $3 and state in ('canary', 'ramping', 'running') for update),
p as materialized (select d.letter from j, perdure.letter_states d where d.letter = $1 and d.state = 'open' for update of d),
l as (
  update perdure.letter_states d set state = 'discarded', resolved_by = 'discard', changed_at = clock_timestamp()
  from p join perdure.letters l on l.letter = p.letter where d.letter = p.letter and d.state = 'open' returning d.letter, l.task_id),
k as materialized (select perdure.release_unique(array_agg(task_id)) from l)
insert into perdure.audit (who, what, letter, replay, why, details)
select $2, 'letter.discard', letter, $3, $4, jsonb_build_object('hash', $5::text) from l cross join k`

// discard gives up the letters of which an agent said so.
func (r *Replayer) discard(ctx context.Context, j *job, list []*letter) error {
	for _, l := range list {
		if !l.discard || l.state != schemas.LetterOpen {
			continue
		}
		if _, err := r.deps.DB.Exec(ctx, discardLetter, l.id, j.who, j.id, l.why.text(), j.hash); err != nil {
			return fmt.Errorf("discard %s: %w", l.id, err)
		}
	}
	return nil
}

// extend lets a lease last for what an agent may take.
func (r *Replayer) extend(ctx context.Context, j *job, d time.Duration) error {
	_, err := r.deps.DB.Exec(ctx, `update perdure.replays set lease = clock_timestamp() + $3::interval where replay = $1 and owner = $2`, j.id, r.cfg.Instance, r.cfg.Lease+d)
	return err
}
