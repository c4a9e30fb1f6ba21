package apiclient_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/config"
)

func client(t *testing.T, url string) *apiclient.Client {
	t.Helper()
	c, err := apiclient.New(config.Config{APIURL: url, APIToken: "tok"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestProblemsTellWhatToDo(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok" {
			t.Errorf("no token: %v", r.Header)
		}
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = w.Write([]byte(`{"type":"urn:perdure:problem:invalid-task","title":"x","status":422,"detail":"no","errors":[{"pointer":"#/payload/amount","detail":"is missing"}],"next":"perdure catalog explain refund"}`))
	}))
	defer srv.Close()
	err := client(t, srv.URL).Post(t.Context(), "/v1/tasks", map[string]int{"a": 1}, nil)
	var p *apiclient.Problem
	if !errors.As(err, &p) || p.Name() != "invalid-task" || p.RetryAfter != 3*time.Second {
		t.Fatalf("got %#v", err)
	}
	for _, want := range []string{"#/payload/amount: is missing", "next: perdure catalog explain refund", "again: in 3s", "422"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %q", want, err)
		}
	}
}

func TestWrongServerAndNoServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/moved" {
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte("<html>hello</html>"))
	}))
	c := client(t, srv.URL)
	var out map[string]any
	if err := c.Get(t.Context(), "/v1/queues", nil, &out); err == nil || !strings.Contains(err.Error(), "PERDURE_API_URL") {
		t.Errorf("html: %v", err)
	}
	if err := c.Get(t.Context(), "/v1/moved", nil, &out); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("redirect: %v", err)
	}
	srv.Close()
	if err := c.Get(t.Context(), "/v1/queues", nil, &out); err == nil || !strings.Contains(err.Error(), "no answer from the API") {
		t.Errorf("closed: %v", err)
	}
	if _, err := apiclient.New(config.Config{}); err == nil {
		t.Error("no address, no error")
	}
}

func TestWhatAPersonTypesStaysOneSegment(t *testing.T) {
	var got string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.EscapedPath()
		_, _ = w.Write([]byte("{}"))
	}))
	defer srv.Close()
	var out map[string]any
	for id, want := range map[string]string{
		"main-1-42@0":      "/base/v1/tasks/main-1-42@0",
		"../replays?x=1#f": "/base/v1/tasks/..%2Freplays%3Fx=1%23f",
		"100% sure":        "/base/v1/tasks/100%25%20sure",
	} {
		if err := client(t, srv.URL+"/base/").Get(t.Context(), apiclient.Path("tasks", id), nil, &out); err != nil || got != want {
			t.Errorf("%q: asked for %q, want %q (%v)", id, got, want, err)
		}
	}
}
