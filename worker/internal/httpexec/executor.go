package httpexec

// One attempt: build, send, judge.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Executor posts the tasks of one kind. It is safe for concurrent use.
type Executor struct {
	kind      *schemas.Kind
	url       *url.URL
	secret    []byte // nil = unsigned
	transport http.RoundTripper
}

// New returns the executor of a kind that has an HTTP executor. getenv reads
// the variable with the Standard Webhooks secret, os.Getenv as a rule; a secret
// that the catalog names and the environment lacks is an error.
func New(kind *schemas.Kind, transport http.RoundTripper, getenv func(string) string) (*Executor, error) {
	if kind.HTTP == nil {
		return nil, fmt.Errorf("kind %s has no HTTP executor", kind.Name)
	}
	u, err := url.Parse(kind.HTTP.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("kind %s: executor.http.url must be an http or https URL with a host", kind.Name)
	}
	e := &Executor{kind: kind, url: u, transport: transport}
	if name := kind.HTTP.SecretEnv; name != "" {
		if e.secret, err = webhook.ParseSecret(getenv(name)); err != nil {
			return nil, fmt.Errorf("kind %s: secret_env %s: %w", kind.Name, name, err)
		}
	}
	return e, nil
}

// URL is where tasks are posted to, without what may be secret in it.
func (e *Executor) URL() string { return e.host() + e.url.EscapedPath() }

func (e *Executor) host() string { return e.url.Scheme + "://" + e.url.Host }

// Execute posts the payload and judges the answer.
func (e *Executor) Execute(ctx context.Context, a *execution.Attempt) execution.Result {
	// begun: whether the endpoint may have seen any of it.
	var begun atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { begun.Store(true) }}
	req := e.request(httptrace.WithClientTrace(ctx, trace), a, time.Now())
	res, err := e.transport.RoundTrip(req)
	if err != nil {
		return e.judgeError(ctx, err, begun.Load())
	}
	defer res.Body.Close() //nolint:errcheck // read what was wanted, or the error is in the read
	body, err := readBody(res)
	if err != nil && res.StatusCode < 300 {
		// The status came and the endpoint says that it is done: the rest of
		// the body would not change that.
		body = nil
	}
	return e.judge(res, body)
}

// readBody reads as much as a message needs and a little more, so that short
// answers leave the connection reusable.
func readBody(res *http.Response) ([]byte, error) {
	const drain = 64 << 10
	most := int64(maxMessage + 1) // it is seen that there was more
	if isProblem(res) {
		most = maxProblem
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err != nil {
		return body, fmt.Errorf("read the answer of %s: %w", res.Request.URL.Host, err)
	}
	_, err = io.CopyN(io.Discard, res.Body, drain)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return body, err
}
