package reconcile

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func hook(t *testing.T, url, secretEnv string) Hook {
	t.Helper()
	tr := webhook.NewTransport(1)
	t.Cleanup(tr.CloseIdleConnections)
	h, err := NewHTTP(&schemas.Kind{Name: "k", Reconcile: &schemas.HTTPHook{URL: url, SecretEnv: secretEnv}}, tr,
		func(name string) string { return map[string]string{"SECRET": secret, "BAD": "x"}[name] })
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var question = &Question{
	Task:    &schemas.Task{ID: "main-1-7", Kind: "refund.issue", Key: "ké y", Payload: []byte(`{"n":1}`), TraceParent: "00-a-b-01"},
	Attempt: 2, Run: 42,
}

func TestAQuestionSaysWhichRunIsInDoubt(t *testing.T) {
	var got *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, `{"verdict": "did_not_happen"}`) //nolint:errcheck // a test server
	}))
	defer s.Close()
	v, err := hook(t, s.URL+"/ask", "SECRET").Ask(t.Context(), question)
	if v != DidNotHappen || err != nil {
		t.Fatalf("%v, %v", v, err)
	}
	for name, want := range map[string]string{
		Header: "ask", "Ce-Id": "main-1-7", "Ce-Type": "refund.issue", "Ce-Source": "/perdure/main", "Ce-Partitionkey": "k%C3%A9%20y",
		"Perdure-Attempt": "2", "Perdure-Fence": "0000000000000000042", "Webhook-Id": "main-1-7-reconcile",
		"Content-Type": "application/json", "Traceparent": "00-a-b-01", "Idempotency-Key": "",
	} {
		if h := got.Header.Get(name); h != want {
			t.Errorf("%s: %q, want %q", name, h, want)
		}
	}
	key, err := webhook.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	if want := webhook.Sign(key, "main-1-7-reconcile", got.Header.Get("Webhook-Timestamp"), body); got.Header.Get("Webhook-Signature") != want || string(body) != `{"n":1}` {
		t.Errorf("signature %q over %q, want %q", got.Header.Get("Webhook-Signature"), body, want)
	}
}

func TestOnlyAVerdictIsAVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		status    int
		kind      string
		body      string
		verdict   Verdict
		wantError string
	}{
		"happened":          {200, "application/json", `{"verdict":"happened"}`, Happened, ""},
		"did not":           {200, "application/json", `{"verdict":"did_not_happen","note":"x"}`, DidNotHappen, ""},
		"cannot tell":       {200, "application/json", `{"verdict":"cannot_tell"}`, CannotTell, ""},
		"another word":      {200, "application/json", `{"verdict":"yes"}`, CannotTell, "no \"verdict\""},
		"no verdict":        {200, "application/json", `{}`, CannotTell, "no \"verdict\""},
		"not JSON":          {200, "application/json", `happened`, CannotTell, "not JSON"},
		"a page":            {200, "text/html", `{"verdict":"happened"}`, CannotTell, "not application/json"},
		"accepted":          {202, "application/json", `{"verdict":"happened"}`, CannotTell, "answered 202"},
		"a redirect":        {302, "application/json", `{"verdict":"happened"}`, CannotTell, "answered 302"},
		"an error":          {500, "application/json", `{"verdict":"happened"}`, CannotTell, "answered 500"},
		"too large":         {200, "application/json", `{"verdict":"happened"` + strings.Repeat(" ", 5000) + `}`, CannotTell, "larger"},
		"cut in the middle": {-1, "", "", CannotTell, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.status < 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Type", c.kind)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body) //nolint:errcheck // a test server
			}))
			defer s.Close()
			v, err := hook(t, s.URL, "").Ask(t.Context(), question)
			if v != c.verdict || (err == nil) != (c.wantError == "") || err != nil && !strings.Contains(err.Error(), c.wantError) {
				t.Errorf("%v, %v; want %v, %q", v, err, c.verdict, c.wantError)
			}
		})
	}
}

func TestAQuestionEndsWithItsContext(t *testing.T) {
	closed := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // so that the server watches the connection
		<-r.Context().Done()
		close(closed)
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if v, err := hook(t, s.URL, "").Ask(ctx, question); v != CannotTell || err == nil {
		t.Errorf("%v, %v", v, err)
	}
	<-closed
}

func TestHooksAreCheckedAtStart(t *testing.T) {
	if h, err := NewHTTP(&schemas.Kind{Name: "k"}, nil, nil); h != nil || err != nil {
		t.Errorf("a kind without a hook: %v, %v", h, err)
	}
	getenv := func(name string) string { return map[string]string{"BAD": "x"}[name] }
	for env, want := range map[string]string{"NOT_SET": "is not set", "BAD": "Standard Webhooks"} {
		_, err := NewHTTP(&schemas.Kind{Name: "k", Reconcile: &schemas.HTTPHook{URL: "https://x/", SecretEnv: env}}, nil, getenv)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), env) {
			t.Errorf("%s: %v", env, err)
		}
	}
	if _, err := NewHTTP(&schemas.Kind{Name: "k", Reconcile: &schemas.HTTPHook{URL: "/path"}}, nil, getenv); err == nil {
		t.Error("a URL without a host")
	}
}
