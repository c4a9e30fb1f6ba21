package httpexec

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
	"github.com/perdure/perdure/worker/internal/execution/executiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func executor(t *testing.T, kind *schemas.Kind, url string) *Executor {
	t.Helper()
	kind.HTTP = &schemas.HTTPExecutor{URL: url}
	tr := webhook.NewTransport(4)
	t.Cleanup(tr.CloseIdleConnections)
	x, err := New(kind, tr, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

func TestHTTPIsAConformingExecutor(t *testing.T) {
	executiontest.Run(t, func(t *testing.T, kind *schemas.Kind, b executiontest.Behaviour, seen func(executiontest.Seen)) execution.Executor {
		return executor(t, kind, serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			n, _ := strconv.Atoi(r.Header.Get("Perdure-Attempt"))
			left, err := strconv.ParseFloat(r.Header.Get("Perdure-Timeout"), 64)
			key, _ := url.PathUnescape(r.Header.Get("Ce-Partitionkey"))
			seen(executiontest.Seen{
				ID: r.Header.Get("Idempotency-Key"), Kind: r.Header.Get("Ce-Type"), Key: key,
				Fence: r.Header.Get("Perdure-Fence"), Payload: string(body), Attempt: n,
				Deadline: err == nil && left > 0 && left <= 10 && r.Header.Get("Perdure-Deadline") != "",
			})
			switch b {
			case executiontest.Fails:
				http.Error(w, executiontest.ErrNoLuck.Error(), http.StatusServiceUnavailable)
			case executiontest.Permanent:
				http.Error(w, executiontest.ErrNever.Error(), http.StatusUnprocessableEntity)
			case executiontest.Later:
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(429)
			case executiontest.HandsOn:
				w.WriteHeader(http.StatusAccepted)
			case executiontest.Hangs:
				<-r.Context().Done()
			case executiontest.Breaks:
				panic(http.ErrAbortHandler)
			}
		}))
	})
}

// one sends one attempt to a handler.
func one(t *testing.T, kind schemas.Kind, h http.HandlerFunc) execution.Result {
	t.Helper()
	return attempt(t, executor(t, &kind, serve(t, h)))
}

func attempt(t *testing.T, x *Executor) execution.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return x.Execute(ctx, &execution.Attempt{
		Task: &schemas.Task{ID: "main-1-7", Kind: "k", Queue: "q", Payload: []byte(`{"n":1}`), Time: time.Now()},
		Kind: x.kind, N: 1, Run: 1,
	})
}

func TestTheTableOfAnswers(t *testing.T) {
	const (
		done, retry, permanent, unknown = execution.Completed, execution.Retry, execution.Permanent, execution.Unknown
		again, wrong, elsewhere         = execution.Again, execution.Misconfigured, execution.Elsewhere
	)
	for status, want := range map[int][2]execution.Outcome{ // idempotent, once
		200: {done, done}, 201: {done, done}, 204: {done, done}, 299: {done, done},
		202: {elsewhere, elsewhere},
		301: {permanent, permanent}, 307: {permanent, permanent},
		400: {permanent, permanent}, 410: {permanent, permanent}, 413: {permanent, permanent}, 422: {permanent, permanent},
		401: {wrong, wrong}, 403: {wrong, wrong}, 404: {wrong, wrong}, 405: {wrong, wrong}, 407: {wrong, wrong}, 421: {wrong, wrong}, 501: {wrong, wrong},
		408: {retry, unknown}, 425: {retry, retry}, 429: {retry, retry}, 500: {retry, unknown}, 502: {retry, unknown}, 503: {retry, retry}, 504: {retry, unknown}, 599: {retry, unknown},
		409: {again, again},
	} {
		for i, effects := range []schemas.Effects{schemas.EffectsIdempotent, schemas.EffectsOnce} {
			r := one(t, schemas.Kind{Timeout: time.Second, Effects: effects}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(status)
			})
			if r.Outcome != want[i] {
				t.Errorf("%d, %s: %v, want %v", status, effects, r.Outcome, want[i])
			}
			// Whatever is retried is retried when the endpoint wants it.
			if after := r.After > 0; after != (want[i] == retry) {
				t.Errorf("%d, %s: Retry-After became %v", status, effects, r.After)
			}
		}
	}
}

func TestThatTheKindsOwnResponsesComeFirst(t *testing.T) {
	kind := &schemas.Kind{Timeout: time.Second, Effects: schemas.EffectsOnce}
	x := executor(t, kind, serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }))
	x.kind.HTTP.Responses = map[int]string{404: "permanent"}
	if r := attempt(t, x); r.Outcome != execution.Permanent {
		t.Errorf("%v, want permanent", r.Outcome)
	}
}

func TestConflictIsCompletedOnlyIfItSaysSo(t *testing.T) {
	r := one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Perdure-Outcome", "completed")
		w.WriteHeader(409)
	})
	if r.Outcome != execution.Completed {
		t.Errorf("%v, want completed", r.Outcome)
	}
}

func TestProblemJSONNamesTheError(t *testing.T) {
	r := one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.WriteHeader(422)
		fmt.Fprint(w, `{"type":"urn:bank:no-funds","title":"No funds","detail":"account is empty"}`)
	})
	if r.Class != "urn:bank:no-funds" || r.Message != "account is empty" {
		t.Errorf("class %q, message %q", r.Class, r.Message)
	}
	r = one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		fmt.Fprint(w, strings.Repeat("x", 1<<20))
	})
	if r.Class != "HTTP 500" || len(r.Message) != maxMessage || !strings.HasSuffix(r.Message, "xx …(cut)") {
		t.Errorf("class %q, %d bytes of message, want %d with a mark: %.20q", r.Class, len(r.Message), maxMessage, r.Message[len(r.Message)-20:])
	}
	// One that fits has no mark, and one that says its class says it however long it is.
	r = one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(500)
		fmt.Fprint(w, strings.Repeat("x", maxMessage))
	})
	if r.Message != strings.Repeat("x", maxMessage) {
		t.Errorf("%d bytes of message, cut", len(r.Message))
	}
	r = one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(422)
		fmt.Fprintf(w, `{"detail": %q, "type":"urn:bank:no-funds"}`, strings.Repeat("x", 2*maxMessage))
	})
	if r.Class != "urn:bank:no-funds" || len(r.Message) < maxMessage {
		t.Errorf("class %q, %d bytes of message", r.Class, len(r.Message))
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0, "999999999": 24 * time.Hour, "99999999999999999999": 0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Thu, 01 Jan 2025 00:01:00 GMT": 0,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestWhatCannotBeReachedIsMisconfigured(t *testing.T) {
	for name, c := range map[string]struct {
		url, class string
		want       execution.Outcome
	}{
		"no such name":      {"http://no-such-host.invalid/x", "DNS", execution.Misconfigured},
		"link-local":        {"http://169.254.169.254/latest/meta-data", "forbidden address", execution.Misconfigured},
		"metadata by IPv6":  {"http://[fd00:ec2::254]/", "forbidden address", execution.Misconfigured},
		"link-local IPv6":   {"http://[fe80::1]/", "forbidden address", execution.Misconfigured},
		"mapped link-local": {"http://[::ffff:169.254.169.254]/", "forbidden address", execution.Misconfigured},
		"nobody listens":    {"http://127.0.0.1:1/", "", execution.Retry},
	} {
		r := attempt(t, executor(t, &schemas.Kind{Timeout: time.Second, Effects: schemas.EffectsOnce}, c.url))
		if r.Outcome != c.want || c.class != "" && r.Class != c.class {
			t.Errorf("%s: %v, class %q: %s", name, r.Outcome, r.Class, r.Message)
		}
	}
	tlsServer := httptest.NewTLSServer(http.NotFoundHandler())
	defer tlsServer.Close()
	tlsServer.Config.ErrorLog = nil
	r := attempt(t, executor(t, &schemas.Kind{Timeout: time.Second, Effects: schemas.EffectsOnce}, tlsServer.URL))
	if r.Outcome != execution.Misconfigured || r.Class != "TLS" {
		t.Errorf("unknown authority: %v %q %s", r.Outcome, r.Class, r.Message)
	}
}

func TestAConnectionCutAfterTheRequestIsNotRepeatedByItself(t *testing.T) {
	// net/http repeats a request with an Idempotency-Key on its own. The first
	// request makes the connection one that is reused, which is when it does.
	var requests atomic.Int64
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	defer func() { _ = srv.Close(); <-done }()
	x := executor(t, &schemas.Kind{Timeout: time.Second, Effects: schemas.EffectsOnce}, "http://"+ln.Addr().String())
	if r := attempt(t, x); r.Outcome != execution.Completed {
		t.Fatalf("first: %+v", r)
	}
	if r := attempt(t, x); r.Outcome != execution.Unknown {
		t.Errorf("cut: %v, want unknown", r.Outcome)
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests came for 2 attempts", n)
	}
}

func TestAttributesOfTheUserAreSentToo(t *testing.T) {
	kind := schemas.Kind{Name: "k", Timeout: 5 * time.Second}
	sent := make(chan http.Header, 1)
	x := executor(t, &kind, serve(t, func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header.Clone() }))
	res := x.Execute(t.Context(), &execution.Attempt{
		Task: &schemas.Task{ID: "main-1-7", Kind: "k", Queue: "q", Payload: []byte(`1`), Time: time.Now(),
			Headers: map[string]string{"ce_subject": "Köln/8", "ce_id": "another", "ce_Bad": "x", "tenant": "blue"}},
		Kind: x.kind, N: 1, Run: 1,
	})
	if got := <-sent; res.Outcome != execution.Completed || got.Get("Ce-Subject") != "K%C3%B6ln/8" || got.Get("Ce-Id") != "main-1-7" || got["Ce-Bad"] != nil || got["Tenant"] != nil {
		t.Errorf("%+v, %v", res, got)
	}
}

func TestTheSignatureIsStandardWebhooks(t *testing.T) {
	// The example of the Standard Webhooks specification.
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := webhook.Sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("signature %s", got)
	}
	for _, bad := range []string{"", "whsec_", "whsec_!!!", "short"} {
		if _, err := webhook.ParseSecret(bad); err == nil {
			t.Errorf("secret %q accepted", bad)
		}
	}
}

func TestCancellationClosesTheRequest(t *testing.T) {
	closed := make(chan struct{})
	began := make(chan struct{})
	x := executor(t, &schemas.Kind{Timeout: time.Minute}, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(began)
		<-r.Context().Done()
		close(closed)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	r := x.Execute(ctx, &execution.Attempt{Task: &schemas.Task{ID: "main-1-1", Payload: []byte("{}")}, Kind: x.kind, N: 1, Run: 1})
	if r.Outcome != execution.Retry || r.Class != "cancelled" {
		t.Errorf("%+v", r)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the endpoint did not see the request end")
	}
}

// An endpoint names the cause as a handler does; what it sends is bounded and clean.
func TestTheEndpointNamesTheCause(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "card-declined": "card-declined", "  shard \t 7  read\x01-only ": "shard 7 read-only", "Übertrag\xff": "Übertrag",
		strings.Repeat("é", maxFingerprint): strings.Repeat("é", maxFingerprint/2),
	} {
		res := &http.Response{StatusCode: 422, Status: "422", Header: http.Header{"Perdure-Fingerprint": {in}}}
		x := &Executor{kind: &schemas.Kind{HTTP: &schemas.HTTPExecutor{}}}
		if r := x.judge(res, []byte("no")); r.Fingerprint != want || r.Outcome != execution.Permanent {
			t.Errorf("%.30q: %q, %v; want %.30q", in, r.Fingerprint, r.Outcome, want)
		}
	}
	r := one(t, schemas.Kind{Timeout: time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Perdure-Fingerprint", "card-declined")
		w.WriteHeader(422)
	})
	if r.Fingerprint != "card-declined" {
		t.Errorf("over HTTP: %q", r.Fingerprint)
	}
}

// Whatever an endpoint goes on to say, its status counts, and no more of the answer is
// read than a message needs.
func TestAnAnswerWithoutAnEndIsNotReadToIt(t *testing.T) {
	const end = 256 << 20 // of it, so that a broken reader fails the test and not the machine
	for status, want := range map[int]execution.Outcome{200: execution.Completed, 422: execution.Permanent, 500: execution.Retry} {
		sent := make(chan int, 1)
		r := one(t, schemas.Kind{Timeout: time.Minute}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			n := 0
			for chunk := bytes.Repeat([]byte("x"), 64<<10); n < end; n += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
			sent <- n
		})
		if n := <-sent; r.Outcome != want || n >= end || len(r.Message) > maxProblem {
			t.Errorf("%d: %v, want %v; %d bytes of message, %d were sent", status, r.Outcome, want, len(r.Message), n)
		}
	}
}
