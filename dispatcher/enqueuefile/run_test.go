package enqueuefile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dispatcher/enqueuefile"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// serve runs a dispatcher and gives its URL and its database.
func serve(t testing.TB) (string, *pgxpool.Pool) { return serveTo(t, nil) }

func serveTo(t testing.TB, tokens *api.Tokens) (string, *pgxpool.Pool) {
	t.Helper()
	db, err := pg.Pool(context.Background(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	cat, err := schemas.ParseCatalog("c.yaml", []byte("version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q}, paid: {queue: q, schema: paid.json}}\n"), fstest.MapFS{
		"paid.json": {Data: []byte(`{"type":"object","properties":{"amount":{"type":"integer"}}}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := dispatcher.New(dispatcher.Config{}, dispatcher.Deps{DB: db, Catalog: cat, Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(http.NewServeMux(), "test", tokens, slog.New(slog.DiscardHandler))
	d.Routes(a)
	srv := httptest.NewServer(a)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	t.Cleanup(func() {
		srv.Close()
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		err := d.Ready(ctx)
		return err == nil, fmt.Sprint(err)
	})
	return srv.URL, db
}

func tasks(t testing.TB, db *pgxpool.Pool) (payloads []string) {
	t.Helper()
	err := db.QueryRow(context.Background(), `select array(select convert_from(payload, 'UTF8') from perdure.outbox order by id)`).Scan(&payloads)
	if err != nil {
		t.Fatal(err)
	}
	return payloads
}

func run(t testing.TB, opt enqueuefile.Options, text string) (enqueuefile.Stats, []enqueuefile.Reject) {
	t.Helper()
	var rejects bytes.Buffer
	opt.Reader, opt.Rejects = strings.NewReader(text), &rejects
	if opt.Name == "" {
		opt.Name = "file.ndjson"
	}
	stats, err := enqueuefile.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	var list []enqueuefile.Reject
	for dec := json.NewDecoder(&rejects); dec.More(); {
		var r enqueuefile.Reject
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return stats, list
}

func check(t testing.TB, s enqueuefile.Stats, accepted, replayed, rejected int64) {
	t.Helper()
	if s.Accepted != accepted || s.Replayed != replayed || s.Rejected != rejected || s.Lines != accepted+replayed+rejected {
		t.Fatalf("%+v, want accepted %d, replayed %d, rejected %d", s, accepted, replayed, rejected)
	}
}

func TestSameFileAgainEnqueuesNothingTwice(t *testing.T) {
	url, db := serve(t)
	file := []string{
		"\ufeff" + `{"kind":"k","payload":1}`,
		`{"kind":"k","payload":2}` + "\r",
		``,
		`{"kind":"k","payload":2}`, // equal, and yet another task
		`{"kind":"k","payload":3,"idempotency_key":"own"}`,
		`{"kind":"k","payload":3,"idempotency_key":"own"}`, // the same task
		`{"kind":"k","payload":4`,
		` { "kind":"k","payload":"\"idempotency_key\"","idempotency_key":null}`,
		`{}`,
		`{"kind":"nope","payload":4}`,
		`[1]`,
		`{"kind":"k","payload":"` + strings.Repeat("x", 2<<20) + `"}`,
		`{"kind":"k","payload":5}`,
	}
	opt := enqueuefile.Options{URL: url}
	stats, rejects := run(t, opt, strings.Join(file, "\n"))
	check(t, stats, 6, 1, 5)
	var where []int
	for _, r := range rejects {
		where = append(where, r.Line)
		if r.Problem.Type == "" || r.Problem.Status < 400 {
			t.Errorf("%+v", r)
		}
	}
	if fmt.Sprint(where) != "[12 7 9 10 11]" { // the long line is found while reading
		t.Errorf("rejected lines %v", where)
	}
	if got := strings.Join(tasks(t, db), " "); got != `1 2 2 3 "\"idempotency_key\"" 5` {
		t.Errorf("tasks %s", got)
	}

	stats, _ = run(t, opt, strings.Join(file, "\n"))
	check(t, stats, 0, 7, 5)

	file[6] = `{"kind":"k","payload":4}` // mended
	file[9] = ``                         // removed
	stats, _ = run(t, opt, "\n"+strings.TrimPrefix(strings.Join(file, "\n"), "\ufeff"))
	check(t, stats, 1, 7, 3)
	if n := len(tasks(t, db)); n != 7 {
		t.Errorf("%d tasks, want 7", n)
	}
}

func TestBatchIsTheScopeOfLines(t *testing.T) {
	url, _ := serve(t)
	line := `{"kind":"k","payload":1}`
	abs, err := filepath.Abs("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		opt                enqueuefile.Options
		accepted, replayed int64
	}{
		{enqueuefile.Options{Name: "a"}, 1, 0},
		{enqueuefile.Options{Name: "./a"}, 0, 1},
		{enqueuefile.Options{Name: abs}, 0, 1},
		{enqueuefile.Options{Name: "b"}, 1, 0},
		{enqueuefile.Options{Name: "a", Batch: "monday"}, 1, 0},
		{enqueuefile.Options{Name: "b", Batch: "monday"}, 0, 1},
		{enqueuefile.Options{Name: "-"}, 1, 0},
		{enqueuefile.Options{Name: "-"}, 1, 0},
		{enqueuefile.Options{Name: "-", Batch: "monday"}, 0, 1},
	} {
		c.opt.URL = url
		stats, _ := run(t, c.opt, line)
		check(t, stats, c.accepted, c.replayed, 0)
	}
}

// unreliable breaks requests in every way, in turn.
type unreliable struct{ n int }

func (u *unreliable) RoundTrip(r *http.Request) (*http.Response, error) {
	u.n++
	if u.n%5 == 1 {
		return nil, errors.New("connection refused")
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch u.n % 5 {
	case 2: // the answer is lost
		_, err := io.Copy(io.Discard, res.Body)
		return nil, errors.Join(errors.New("connection reset"), err, res.Body.Close())
	case 3: // or half of it
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return nil, err
		}
		res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{}))
	case 4:
		if err := res.Body.Close(); err != nil {
			return nil, err
		}
		res = &http.Response{StatusCode: 503, Status: "503 Service Unavailable", Header: http.Header{"Retry-After": {"0"}}, Body: http.NoBody}
	}
	return res, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestEveryLineOnceOverAnUnreliableNetwork(t *testing.T) {
	url, db := serve(t)
	var file strings.Builder
	const n = 6000
	for i := range n {
		fmt.Fprintf(&file, `{"kind":"k","payload":%d}`+"\n", i)
		if i%100 == 0 {
			fmt.Fprintf(&file, `{"kind":"k","payload":}`+"\n")
		}
	}
	stats, rejects := run(t, enqueuefile.Options{URL: url, Client: &http.Client{Transport: &unreliable{}}}, file.String())
	if stats.Accepted+stats.Replayed != n || stats.Rejected != n/100 || len(rejects) != n/100 || stats.Retries == 0 {
		t.Fatalf("%+v, %d rejects", stats, len(rejects))
	}
	seen := map[string]bool{}
	all := tasks(t, db)
	for _, p := range all {
		seen[p] = true
	}
	if len(all) != n || len(seen) != n {
		t.Fatalf("%d tasks, %d of them different, want %d", len(all), len(seen), n)
	}
}

func TestWhatTryingAgainCannotMendEndsAtOnce(t *testing.T) {
	for status, want := range map[int]string{401: "no token (set PERDURE_API_TOKEN)", 404: "404 Not Found"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if status == 404 {
				http.NotFound(w, nil)
				return
			}
			api.WriteProblem(w, api.NewProblem(401, "unauthorized", "no token").WithNext("set PERDURE_API_TOKEN"))
		}))
		_, err := enqueuefile.Run(t.Context(), enqueuefile.Options{URL: srv.URL, Name: "f", Reader: strings.NewReader("{}")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
		srv.Close()
	}
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer mute.Close()
	if _, err := enqueuefile.Run(t.Context(), enqueuefile.Options{URL: mute.URL, Name: "f", Reader: strings.NewReader("{}")}); err == nil || !strings.Contains(err.Error(), "not NDJSON") {
		t.Errorf("got %v", err)
	}
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, `{"line":7,"id":"x"}`)
	}))
	defer odd.Close()
	if _, err := enqueuefile.Run(t.Context(), enqueuefile.Options{URL: odd.URL, Name: "f", Reader: strings.NewReader("{}")}); err == nil || !strings.Contains(err.Error(), "line 7") {
		t.Errorf("got %v", err)
	}
}

func TestPatienceEnds(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		api.WriteProblem(w, api.Unavailable("Postgres", "perdure doctor"))
	}))
	defer srv.Close()
	_, err := enqueuefile.Run(t.Context(), enqueuefile.Options{URL: srv.URL, Name: "f", Reader: strings.NewReader("{}"), Patience: 1100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "gave up") || !strings.Contains(err.Error(), "Postgres") {
		t.Errorf("got %v", err)
	}
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // accepts, and never answers
	}))
	defer mute.Close()
	_, err = enqueuefile.Run(t.Context(), enqueuefile.Options{URL: mute.URL, Name: "f", Reader: strings.NewReader("{}"), Patience: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "gave up") || !strings.Contains(err.Error(), "next: perdure doctor") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := func(enqueuefile.Stats) { cancel() }
	_, err = enqueuefile.Run(ctx, enqueuefile.Options{URL: srv.URL, Name: "f", Reader: strings.NewReader("{}"), Progress: stop})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// limited is a token with these limits.
func limited(t *testing.T, limits string) (token string, tokens *api.Tokens) {
	t.Helper()
	token = "a-token-of-16-characters"
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("tokens:\n- {name: a, token: "+token+", verbs: [enqueue], "+limits+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	return token, tokens
}

// A rate makes it slower, also where one request then takes longer than patience.
func TestRateOnlySlowsItDown(t *testing.T) {
	token, tokens := limited(t, "rate: 20/s, burst: 1")
	url, db := serveTo(t, tokens)
	s, _ := run(t, enqueuefile.Options{URL: url, Token: token, Patience: 3 * time.Second}, strings.Repeat(`{"kind":"k","payload":1}`+"\n", 80))
	check(t, s, 80, 0, 0)
	if s.Retries != 0 || s.Elapsed < 3900*time.Millisecond {
		t.Errorf("%d retries in %s, want none in 4 s", s.Retries, s.Elapsed)
	}
	if n := len(tasks(t, db)); n != 80 {
		t.Errorf("%d tasks", n)
	}
}

// A quota that is used up is said with when to come again, and not waited for.
func TestQuotaIsNotWaitedFor(t *testing.T) {
	token, tokens := limited(t, "quota: 3")
	url, db := serveTo(t, tokens)
	opt := enqueuefile.Options{URL: url, Token: token, Name: "f", Patience: 5 * time.Second, Reader: strings.NewReader(strings.Repeat(`{"kind":"k","payload":1}`+"\n", 5))}
	s, err := enqueuefile.Run(t.Context(), opt)
	if err == nil || !strings.Contains(err.Error(), "quota-exceeded") || !strings.Contains(err.Error(), "asks to come again in") || !strings.Contains(err.Error(), "the same command") {
		t.Errorf("got %v", err)
	}
	if s.Accepted != 3 || s.Rejected != 0 || len(tasks(t, db)) != 3 {
		t.Errorf("%+v, %d tasks, want 3", s, len(tasks(t, db)))
	}
}

func TestRejectsFileIsThereOnlyWithRejects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.rejects.ndjson")
	if err := os.WriteFile(path, []byte("of an earlier run"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "one\n"} {
		r, err := enqueuefile.NewRejectsFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if _, err := io.WriteString(r, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if string(got) != text || (text == "") != errors.Is(err, os.ErrNotExist) || (r.Path() == "") != (text == "") {
			t.Errorf("%q: %q %v %q", text, got, err, r.Path())
		}
	}
}

// What it waits for is said at the first failure, and not again for each try.
func TestWaitingIsToldAtOnceAndSeldom(t *testing.T) {
	tries := 0
	refuse := roundTripper(func(*http.Request) (*http.Response, error) {
		tries++
		return nil, errors.New("connection refused")
	})
	var told []int // after which try
	_, err := enqueuefile.Run(t.Context(), enqueuefile.Options{URL: "http://x", Name: "f", Reader: strings.NewReader("{}"), Client: &http.Client{Transport: refuse},
		Patience: time.Second, Waiting: func(why error, left time.Duration) {
			told = append(told, tries)
			if !strings.Contains(why.Error(), "connection refused") || left <= 0 || left > time.Second {
				t.Errorf("%v, %s left", why, left)
			}
		}})
	if err == nil || tries < 2 || fmt.Sprint(told) != "[1]" {
		t.Errorf("told after tries %v of %d: %v", told, tries, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A reject holds its line, also through tries that decide others first.
func TestRejectsHoldTheirLines(t *testing.T) {
	url, _ := serve(t)
	long := strings.Repeat("ä", 40_000) // 80,000 bytes
	file := []string{`{"kind":"k","payload":1}`, `{"kind":"nope","payload":"<a>"}`, "\xff\x00", `x` + long, `{"kind":"k","payload":"` + strings.Repeat("x", 2<<20) + `"}`, "[1]\r"}
	_, rejects := run(t, enqueuefile.Options{URL: url, Client: &http.Client{Transport: &unreliable{}}}, strings.Join(file, "\n"))
	if len(rejects) != 5 {
		t.Fatalf("%d rejects, want 5: %+v", len(rejects), rejects)
	}
	for _, r := range rejects {
		line := strings.TrimSuffix(file[r.Line-1], "\r")
		got := r.Input
		if r.Line == 3 {
			got = string(r.InputBase64)
		}
		cut := len(line) > enqueuefile.MaxInput
		if r.Cut != cut || !strings.HasPrefix(line, got) || len(got) < min(len(line), enqueuefile.MaxInput-3) || !cut && got != line {
			t.Errorf("line %d of %d bytes: %d bytes of it, cut %v", r.Line, len(line), len(got), r.Cut)
		}
	}
}

// A rejected line is told the field by which it is wrong, and nothing of it is
// written.
func TestRejectsNameTheField(t *testing.T) {
	url, db := serve(t)
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	bad := []struct{ pointer, line string }{
		{"#/payload/amount", `{"kind":"paid","payload":{"amount":"x"}}`},
		{"#/kind", `{"kind":"nope","payload":1}`},
		{"#/payload", `{"kind":"k","payload":"` + strings.Repeat("x", 1<<20) + `"}`},
		{"#/payload", `{"kind":"k"}`},
		{"#/payload", `{"kind":"k","payload":` + deep + `}`},
		{"#/key", `{"kind":"k","payload":1,"key":"\u0000"}`},
		{"#", "{\"kind\":\"k\",\"payload\":\"\x00\"}"},
		{"#", "{\"kind\":\"k\",\"payload\":\"\xff\"}"},
		{"#/deadline", `{"kind":"k","payload":1,"deadline":"2020-01-01T00:00:00Z"}`},
		{"#/headers/ce_id", `{"kind":"k","payload":1,"headers":{"ce_id":"x"}}`},
		{"#/colour", `{"kind":"k","payload":1,"colour":"red"}`},
	}
	lines := []string{`{"kind":"k","payload":"first"}`}
	for _, b := range bad {
		lines = append(lines, b.line)
	}
	stats, rejects := run(t, enqueuefile.Options{URL: url}, strings.Join(append(lines, `{"kind":"k","payload":"last"}`), "\n"))
	check(t, stats, 2, 0, int64(len(bad)))
	for i, b := range bad {
		r := rejects[i]
		if r.Line != i+2 || len(r.Problem.Errors) != 1 || r.Problem.Errors[0].Pointer != b.pointer {
			t.Errorf("line %d, %.60q: %+v, want one error at %s", r.Line, b.line, r.Problem, b.pointer)
		}
	}
	if got := tasks(t, db); len(got) != 2 {
		t.Errorf("%d tasks were written, want the two good ones", len(got))
	}
}
