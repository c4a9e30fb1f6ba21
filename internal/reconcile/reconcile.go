// Package reconcile asks whether an effect in doubt happened. It knows the
// answers, and the hook that a catalog names by URL; what becomes of the task is
// the asker's business: the worker's, before it writes a letter, and whoever
// works on letters later.
package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// Verdict is what a hook answers.
type Verdict uint8

// The verdicts. The zero Verdict decides nothing.
const (
	CannotTell   Verdict = iota // the task stays a dead letter for a person
	Happened                    // the task is done
	DidNotHappen                // and will not happen any more: the task may run again
)

var verdicts = [...]string{"cannot_tell", "happened", "did_not_happen"}

// String returns the verdict as it stands on the wire.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v]
	}
	return "invalid"
}

// parseVerdict reads a verdict.
func parseVerdict(s string) (Verdict, bool) {
	for v, name := range verdicts {
		if name == s {
			return Verdict(v), true
		}
	}
	return CannotTell, false
}

// Question is about one task whose effect is in doubt.
type Question struct {
	Task    *schemas.Task
	Attempt int   // the one in doubt, from 1
	Run     int64 // the one in doubt: what its effect's fence was
}

// Hook answers questions; safe for concurrent use. An error means that it gave
// no answer now: it is no verdict.
type Hook interface {
	Ask(ctx context.Context, q *Question) (Verdict, error)
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4 << 10

// Header marks a request as a question; its value is always "ask".
const Header = "Perdure-Reconcile"

// client asks a URL.
type client struct {
	url       *url.URL
	secret    []byte // nil = unsigned
	transport http.RoundTripper
}

// NewHTTP returns the hook that the catalog gives to a kind, nil if it gives
// none. transport is one of webhook.NewTransport; getenv reads the variable with
// the secret. A secret that the catalog names and the environment lacks is an
// error.
func NewHTTP(kind *schemas.Kind, transport http.RoundTripper, getenv func(string) string) (Hook, error) {
	if kind.Reconcile == nil {
		return nil, nil
	}
	u, err := url.Parse(kind.Reconcile.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("kind %s: reconcile.http.url must be an http or https URL with a host", kind.Name)
	}
	c := &client{url: u, transport: transport}
	if name := kind.Reconcile.SecretEnv; name != "" {
		if c.secret, err = webhook.ParseSecret(getenv(name)); err != nil {
			return nil, fmt.Errorf("kind %s: reconcile: secret_env %s: %w", kind.Name, name, err)
		}
	}
	return c, nil
}

// Ask posts the task's payload with the headers that say which task and which
// run, and reads {"verdict": "happened" | "did_not_happen" | "cannot_tell"} from
// a 200. Everything else is an error: a proxy's page must not decide.
func (c *client) Ask(ctx context.Context, q *Question) (Verdict, error) {
	res, err := c.transport.RoundTrip(c.request(ctx, q, time.Now()))
	if err != nil {
		return CannotTell, fmt.Errorf("%s: %w", c.url.Host, err)
	}
	defer res.Body.Close() //nolint:errcheck // read what was wanted, or the error is in the read
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return CannotTell, fmt.Errorf("%s: read its answer: %w", c.url.Host, err)
	case res.StatusCode != http.StatusOK:
		return CannotTell, fmt.Errorf("%s answered %s: want 200 with a verdict", c.url.Host, res.Status)
	case len(body) > maxAnswer:
		return CannotTell, fmt.Errorf("%s: its answer is larger than %d bytes", c.url.Host, maxAnswer)
	case media != "application/json":
		return CannotTell, fmt.Errorf("%s: its answer is %q, not application/json", c.url.Host, media)
	}
	var answer struct {
		Verdict string `json:"verdict"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return CannotTell, fmt.Errorf("%s: its answer is not JSON: %w", c.url.Host, err)
	}
	v, ok := parseVerdict(answer.Verdict)
	if !ok {
		return CannotTell, fmt.Errorf("%s: %w", c.url.Host, errVerdict)
	}
	return v, nil
}

var errVerdict = errors.New(`its answer has no "verdict" of happened, did_not_happen, cannot_tell`)

// request has no Idempotency-Key: the task's own would be taken for the task.
func (c *client) request(ctx context.Context, q *Question, now time.Time) *http.Request {
	t := q.Task
	h := http.Header{}
	contentType := t.ContentType
	if contentType == "" {
		contentType = schemas.JSONContentType
	}
	id, stamp := t.ID+"-reconcile", strconv.FormatInt(now.Unix(), 10)
	h.Set("Content-Type", contentType)
	h.Set("Accept", "application/json")
	h.Set("User-Agent", "perdure")
	h.Set(Header, "ask")
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	if c.secret != nil {
		h.Set("Webhook-Signature", webhook.Sign(c.secret, id, stamp, t.Payload))
	}
	h.Set("Ce-Specversion", schemas.SpecVersion)
	h.Set("Ce-Id", t.ID)
	if parsed, err := schemas.ParseID(t.ID); err == nil {
		h.Set("Ce-Source", schemas.SourcePrefix+parsed.Source)
	}
	h.Set("Ce-Type", t.Kind)
	if t.Key != "" {
		h.Set("Ce-Partitionkey", webhook.Quote(t.Key))
	}
	if t.TraceParent != "" {
		h.Set("Traceparent", t.TraceParent)
	}
	h.Set("Perdure-Attempt", strconv.Itoa(q.Attempt))
	h.Set("Perdure-Fence", webhook.Fence(q.Run))
	req := &http.Request{
		Method: http.MethodPost, URL: c.url, Host: c.url.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(t.Payload)),
		Body:          io.NopCloser(strings.NewReader(string(t.Payload))),
	}
	return req.WithContext(ctx)
}
