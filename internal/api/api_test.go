package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

type answer struct {
	Body struct {
		Who     string `json:"who"`
		Payload bool   `json:"payload"`
	}
}

type limits struct {
	Limit int `query:"limit" maximum:"10"`
}

// serve returns an API with one route for each kind of answer.
func serve(t *testing.T, tokens *api.Tokens) http.Handler {
	t.Helper()
	a := api.New(http.NewServeMux(), "test", tokens, slog.New(slog.DiscardHandler))
	api.Register(a, api.Enqueue, huma.Operation{OperationID: "who", Method: "POST", Path: "/v1/who"},
		func(ctx context.Context, _ *limits) (*answer, error) {
			out := &answer{}
			out.Body.Who, out.Body.Payload = api.Who(ctx), api.Can(ctx, api.ReadPayload)
			return out, nil
		})
	api.Register(a, api.ReadMeta, huma.Operation{OperationID: "away", Method: "GET", Path: "/v1/away"},
		func(context.Context, *struct{}) (*answer, error) {
			return nil, api.Unavailable("Postgres", "perdure doctor").WithRetryAfter(1500 * time.Millisecond)
		})
	api.Register(a, api.ReadMeta, huma.Operation{OperationID: "broken", Method: "GET", Path: "/v1/broken"},
		func(context.Context, *struct{}) (*answer, error) { return nil, errors.New("password=hunter2") })
	return a
}

func tokens(t *testing.T, yaml string, mode os.FileMode) (*api.Tokens, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return api.LoadTokens(path)
}

func do(h http.Handler, method, target string, header ...string) (*httptest.ResponseRecorder, api.Problem) {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:8080"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var p api.Problem
	if w.Header().Get("Content-Type") == "application/problem+json" {
		_ = json.Unmarshal(w.Body.Bytes(), &p)
	}
	return w, p
}

func TestTokenDecidesWhoAndWhat(t *testing.T) {
	sum := sha256.Sum256([]byte("billing-secret-0123"))
	tok, err := tokens(t, "tokens:\n- {name: billing, sha256: "+hex.EncodeToString(sum[:])+", verbs: [enqueue]}\n- {name: ops, token: ops-secret-0123456, verbs: [read-meta, replay]}\n", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, tok)
	for _, c := range []struct {
		token  string
		status int
	}{
		{"Bearer billing-secret-0123", 200},
		{"bearer billing-secret-0123", 200},
		{"Bearer ops-secret-0123456", 403},
		{"Bearer " + hex.EncodeToString(sum[:]), 401},
		{"Bearer billing-secret-012", 401},
		{"Basic billing-secret-0123", 401},
		{"Bearer ", 401},
		{"", 401},
	} {
		w, p := do(h, "POST", "/v1/who", "Authorization", c.token, "Host", "perdure.example.com")
		if w.Code != c.status {
			t.Errorf("%q: %d, want %d", c.token, w.Code, c.status)
		}
		if w.Code == 200 && w.Body.String() != `{"who":"billing","payload":false}`+"\n" {
			t.Errorf("%q: %s", c.token, w.Body)
		}
		if w.Code != 200 && (p.Next == "" || !strings.HasPrefix(p.Type, "urn:perdure:problem:")) {
			t.Errorf("%q: %s", c.token, w.Body)
		}
		if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
			t.Error("401 without WWW-Authenticate")
		}
	}
}

func TestWithoutTokensOnlyThisMachineIsAnswered(t *testing.T) {
	h := serve(t, nil)
	for _, c := range []struct {
		name, value string
		status      int
	}{
		{"Host", "127.0.0.1:8080", 200},
		{"Host", "localhost", 200},
		{"Host", "[::1]:8080", 200},
		{"Host", "evil.example.com", 421},
		{"Host", "127.0.0.1.evil.example.com:8080", 421},
		{"Host", "10.0.0.1:8080", 421},
		{"Origin", "https://evil.example.com", 403},
		{"Sec-Fetch-Site", "cross-site", 403},
	} {
		w, _ := do(h, "POST", "/v1/who", c.name, c.value)
		if w.Code != c.status {
			t.Errorf("%s: %s: %d, want %d", c.name, c.value, w.Code, c.status)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Error("CORS is on")
		}
	}
	if w, _ := do(h, "POST", "/v1/who"); w.Body.String() != `{"who":"local","payload":true}`+"\n" {
		t.Errorf("got %s", w.Body)
	}
}

func TestErrorsAreProblems(t *testing.T) {
	h := serve(t, nil)
	w, p := do(h, "GET", "/v1/away")
	if w.Code != 503 || w.Header().Get("Retry-After") != "2" || p.Name() != "unavailable" || p.Next != "perdure doctor" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	w, p = do(h, "GET", "/v1/broken")
	if w.Code != 500 || strings.Contains(w.Body.String(), "hunter2") || p.Name() != "internal" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w, p = do(h, "POST", "/v1/who?limit=987654321")
	if w.Code != 422 || strings.Contains(w.Body.String(), "987654321") || len(p.Errors) != 1 || p.Errors[0].Pointer != "#/query/limit" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w, p = do(h, "GET", "/v1/who")
	if w.Code != 405 || w.Header().Get("Allow") != "POST" || p.Name() != "method-not-allowed" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w, p = do(h, "GET", "/v2/who"); w.Code != 404 || p.Name() != "not-found" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w, _ = do(h, "GET", "/openapi.json")
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]any `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	responses := doc.Paths["/v1/who"]["post"].Responses
	if _, ok := responses["default"].Content["application/problem+json"]; !ok || responses["200"].Content == nil {
		t.Errorf("openapi: %v", responses)
	}
}

func TestTokenFileIsChecked(t *testing.T) {
	for _, c := range []struct {
		yaml, want string
		mode       os.FileMode
	}{
		{"tokens:\n- {name: a, token: 0123456789abcdef, verbs: [enqueue]}\n", "", 0o600},
		{"tokens:\n- {name: a, token: 0123456789abcdef, verbs: [enqueue]}\n", "chmod 600", 0o604},
		{"tokens:\n- {name: a, sha256: " + strings.Repeat("a0", 32) + ", verbs: [enqueue]}\n", "", 0o644},
		{"tokens:\n- {name: a, sha256: " + strings.Repeat("a0", 32) + ", verbs: [enqueue]}\n", "chmod go-w", 0o620},
		{"tokens: []", "no tokens", 0o600},
		{"tokens:\n- {name: a, token: 0123456789abcdef, verbs: []}\n", "no verbs", 0o600},
		{"tokens:\n- {name: a, token: 0123456789abcdef, verbs: [enqueu]}\n", "unknown verb", 0o600},
		{"tokens:\n- {name: a, token: 0123456789abcdef, verb: [enqueue]}\n", "unknown field", 0o600},
		{"tokens:\n- {name: local, token: 0123456789abcdef, verbs: [enqueue]}\n", "name must be", 0o600},
		{"tokens:\n- {name: \"a\\x1fb\", token: 0123456789abcdef, verbs: [enqueue]}\n", "name must be", 0o600},
		{"tokens:\n- {name: a, token: short, verbs: [enqueue]}\n", "shorter than", 0o600},
		{"tokens:\n- {name: a, sha256: xyz, verbs: [enqueue]}\n", "64 hexadecimal", 0o600},
		{"tokens:\n- {name: a, verbs: [enqueue]}\n", "either token or sha256", 0o600},
		{"tokens:\n- {name: a, token: 0123456789abcdef, verbs: [enqueue]}\n- {name: b, token: 0123456789abcdef, verbs: [kill]}\n", "stands above", 0o600},
	} {
		_, err := tokens(t, c.yaml, c.mode)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s (%o): got %v, want %q", c.yaml, c.mode, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	if _, err := api.LoadTokens(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was taken")
	}
	if tok, err := api.LoadTokens(""); tok != nil || err != nil {
		t.Errorf("%v, %v", tok, err)
	}
}

func TestLimitsOfTokens(t *testing.T) {
	entry := func(name, token, verbs, limits string) string {
		return "- name: " + name + "\n  token: " + token + "\n  verbs: [" + verbs + "]\n  " + limits + "\n"
	}
	const a, b = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"
	for _, c := range []struct{ yaml, want string }{
		{entry("x", a, "enqueue", "rate: 0/s"), "line 5: rate must be more than zero"},
		{entry("x", a, "enqueue", "rate: 5"), "line 5: rate must be a rate such as 200/s"},
		{entry("x", a, "enqueue", "rate: -5/s"), "line 5: rate must be a rate"},
		{entry("x", a, "enqueue", "burst: 5"), "line 5: burst needs a rate"},
		{entry("x", a, "enqueue", "rate: 5/s\n  burst: 0"), "line 6: burst must be a whole number, at least 1"},
		{entry("x", a, "enqueue", "rate: 5/s\n  burst: many"), "line 6: burst must be a whole number"},
		{entry("x", a, "enqueue", "quota: 0"), "line 5: quota must be a whole number, at least 1"},
		{entry("x", a, "enqueue", "quota: 1.5"), "line 5: quota must be a whole number"},
		{entry("x", a, "enqueue", "quota: [1]"), "[5:"},
		{entry("x", a, "enqueue", "streams: 0"), "line 5: streams must be a whole number, at least 1"},
		{entry("x", a, "enqueue", "qouta: 5"), "unknown field"},
		{entry("x", a, "replay", "quota: 5"), "line 5: quota limits enqueueing, but the token lacks the verb enqueue"},
		{entry("x", a, "enqueue", "quota: 5") + entry("x", b, "enqueue", "quota: 6"), "line 6: has other limits"},
		{entry("x", a, "enqueue", "quota: 5") + entry("x", b, "enqueue", "quota: 5"), ""},
		{entry("x", a, "enqueue", "quota: 5") + entry("x", b, "replay", ""), ""},
		{entry("x", a, "enqueue", "quota: 5") + entry("y", b, "enqueue", "quota: 6"), ""},
	} {
		_, err := tokens(t, "tokens:\n"+c.yaml, 0o600)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.yaml, err, c.want)
		}
	}

	tok, err := tokens(t, "tokens:\n"+entry("x", a, "enqueue", "rate: 90/m\n  quota: 7\n  streams: 2")+entry("y", b, "enqueue", ""), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	var got api.Limits
	h := api.New(http.NewServeMux(), "test", tok, slog.New(slog.DiscardHandler))
	api.Register(h, api.Enqueue, huma.Operation{OperationID: "who", Method: "POST", Path: "/v1/who"}, func(ctx context.Context, _ *struct{}) (*answer, error) {
		got = api.LimitsOf(ctx)
		return &answer{}, nil
	})
	for token, want := range map[string]api.Limits{a: {Rate: 1.5, Burst: 2, Quota: 7, Streams: 2}, b: {Streams: 16}} {
		if w, _ := do(h, "POST", "/v1/who", "Authorization", "Bearer "+token); w.Code != 200 || got != want {
			t.Errorf("%d: %+v, want %+v", w.Code, got, want)
		}
	}
	if got := api.LimitsOf(t.Context()); got != (api.Limits{}) {
		t.Errorf("without a token: %+v", got)
	}
}

func TestListenAddr(t *testing.T) {
	some, err := tokens(t, "tokens:\n- {name: a, token: 0123456789abcdef, verbs: [enqueue]}\n", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	local := []string{"127.0.0.1:80", "localhost:80", "[::1]:80", "127.9.9.9:0"}
	open := []string{":80", "0.0.0.0:80", "[::]:80", "192.168.1.1:80", "example.com:80"}
	for _, addr := range slices.Concat(local, open) {
		if err := api.CheckListenAddr(addr, some); err != nil {
			t.Errorf("%s with tokens: %v", addr, err)
		}
		if err := api.CheckListenAddr(addr, nil); (err == nil) != slices.Contains(local, addr) {
			t.Errorf("%s without tokens: %v", addr, err)
		}
	}
	if api.CheckListenAddr("nonsense", some) == nil {
		t.Error("nonsense was taken")
	}
}
