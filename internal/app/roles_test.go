package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/testkit"
)

// realConfig is a configuration on the test's own share of every server.
func realConfig(t *testing.T) config.Config {
	t.Helper()
	root := t.TempDir()
	catalog := filepath.Join(root, "catalog.yaml")
	text := "version: 1\nqueues:\n  hello: {partitions: 1}\nkinds:\n  hello.world: {queue: hello}\n"
	if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	db, k, r := testkit.Postgres(t), testkit.Kafka(t), testkit.Redis(t)
	return config.Config{
		DataDir: filepath.Join(root, "data"), Catalog: catalog, Source: "main", History: time.Hour, LogLevel: "info", KafkaTopics: "create",
		PostgresURL: db.URL, KafkaBrokers: k.Brokers, KafkaTopicPrefix: k.Prefix, RedisAddrs: []string{r.Addr}, RedisKeyPrefix: r.Prefix,
	}
}

// runUp runs `up` until the test ends and returns the API's address.
func runUp(t *testing.T, cfg config.Config, banner io.Writer) (url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- app.Up(ctx, app.Env{Config: cfg, JQ: []string{os.Args[0], "fix-jq"}, Out: banner, ErrOut: io.Discard})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	client(t, cfg.DataDir)
	lines, err := config.ReadEnvFile(config.EnvFile(cfg.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if l.Name == "PERDURE_API_URL" {
			url = l.Value
		}
	}
	return url
}

func TestTokensOpenOnlyWhatTheirVerbsSay(t *testing.T) {
	cfg := realConfig(t)
	cfg.HTTPAddr = "0.0.0.0:0" // allowed, because there are tokens
	cfg.OutboxLimit = 12345
	cfg.APITokensFile = filepath.Join(t.TempDir(), "tokens.yaml")
	tokens := "tokens:\n  - {name: reader, token: reader-token-0123456789, verbs: [read-meta]}\n  - {name: shop, token: shop-token-0123456789, verbs: [enqueue], quota: 1}\n"
	if err := os.WriteFile(cfg.APITokensFile, []byte(tokens), 0o600); err != nil {
		t.Fatal(err)
	}
	url := runUp(t, cfg, io.Discard)
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, tt := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", "/healthz", "", 200},
		{"GET", "/readyz", "", 200},
		{"GET", "/metrics", "", 200},
		{"GET", "/v1/dead-letters", "", 401},
		{"GET", "/v1/dead-letters", "wrong-token-0123456789", 401},
		{"GET", "/v1/dead-letters", "shop-token-0123456789", 403},
		{"GET", "/v1/dead-letters", "reader-token-0123456789", 200},
		{"POST", "/v1/tasks", "reader-token-0123456789", 403},
		{"POST", "/v1/tasks", "shop-token-0123456789", 202},
		{"POST", "/v1/tasks", "shop-token-0123456789", 429}, // its quota is one
		{"POST", "/v1/replays", "shop-token-0123456789", 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, url+tt.path, strings.NewReader(`{"kind":"hello.world","payload":1}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tt.status {
			t.Errorf("%s %s with token %q: %d, want %d: %s", tt.method, tt.path, tt.token, resp.StatusCode, tt.status, body)
		}
		if tt.path == "/metrics" && !strings.Contains(string(body), "perdure_dispatcher_outbox_limit_tasks 12345") {
			t.Error("PERDURE_OUTBOX_LIMIT did not reach the dispatcher")
		}
	}
}

// TestTheBinarysWorkerRunsAsManyAtOnceAsItIsTold: `perdure up` and `perdure
// worker` make theirs in the same place.
func TestTheBinarysWorkerRunsAsManyAtOnceAsItIsTold(t *testing.T) {
	const n = 3
	var running, most, ended atomic.Int64
	open := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		defer ended.Add(1)
		defer running.Add(-1)
		if now := running.Add(1); now > most.Load() {
			most.Store(now)
		}
		<-open
	}))
	t.Cleanup(srv.Close)
	cfg := realConfig(t)
	cfg.Concurrency = n
	text := fmt.Sprintf("version: 1\nqueues:\n  hello: {partitions: 1}\nkinds:\n  hello.world: {queue: hello, executor: {http: {url: %q}}}\n", srv.URL)
	if err := os.WriteFile(cfg.Catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	url := runUp(t, cfg, io.Discard)
	const tasks = 20
	for range tasks {
		resp, err := http.Post(url+"/v1/tasks", "application/json", strings.NewReader(`{"kind":"hello.world","payload":1}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusAccepted {
			t.Fatal(resp.Status, err)
		}
	}
	until := func(what string, have *atomic.Int64, want int64) {
		testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
			got := have.Load()
			return got >= want, fmt.Sprintf("%d %s, want %d", got, what, want)
		})
	}
	until("run at once", &running, n)
	close(open)
	until("have ended", &ended, tasks)
	if got := most.Load(); got != n {
		t.Errorf("%d ran at once, want %d", got, n)
	}
}

// TestARoleWhoseServerRefusesItExitsAtOnce: a wrong password is not waited out.
func TestARoleWhoseServerRefusesItExitsAtOnce(t *testing.T) {
	cfg := realConfig(t)
	cfg.PostgresURL = strings.Replace(cfg.PostgresURL, "://", "://nobody-", 1)
	begun := time.Now()
	err := app.Relay(t.Context(), app.Env{Config: cfg, Out: io.Discard, ErrOut: io.Discard})
	if err == nil || exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "postgres at ") || time.Since(begun) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}

// TestARoleOnAnOldSchemaSaysWhatToRun: relay, replayer and dispatcher refuse.
func TestARoleOnAnOldSchemaSaysWhatToRun(t *testing.T) {
	cfg := realConfig(t)
	cfg.HTTPAddr = "127.0.0.1:0"
	for name, role := range map[string]func(context.Context, app.Env) error{"dispatcher": app.Dispatcher, "relay": app.Relay, "replayer": app.Replayer} {
		err := role(t.Context(), app.Env{Config: cfg, Out: io.Discard, ErrOut: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "perdure migrate up") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAWorkerWithNothingToRunRefuses: it lists the kinds that need a handler.
func TestAWorkerWithNothingToRunRefuses(t *testing.T) {
	err := app.Worker(t.Context(), app.Env{Config: realConfig(t), Out: io.Discard, ErrOut: io.Discard})
	if err == nil || exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "hello.world") {
		t.Errorf("got %v", err)
	}
}

func TestUpWithAnOccupiedPortTakesTheNext(t *testing.T) {
	occupyPort(t)
	var banner bytes.Buffer
	if url := runUp(t, realConfig(t), &banner); strings.HasSuffix(url, ":17070") {
		t.Errorf("API at %s, which another process has", url)
	}
	if strings.Contains(banner.String(), "(embedded") || strings.Count(banner.String(), "(yours)") != 3 {
		t.Errorf("the banner calls real servers embedded:\n%s", banner.String())
	}
}
