package dispatcher_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

const httpCatalog = `version: 1
queues: {payments: {}, other: {}}
kinds:
  refund: {queue: payments, schema: refund.json}
  any: {queue: payments}
  only: {queue: payments, unique: {until: 1h}}
  held: {queue: payments, unique: {until: completed}}
`

// server is a running dispatcher.
type server struct {
	*httptest.Server
	db   *pgxpool.Pool
	reg  *prometheus.Registry
	stop func() // may be called before the test ends
}

func serve(t testing.TB, db *pgxpool.Pool, tokens *api.Tokens) *server {
	t.Helper()
	return serveWith(t, db, tokens, dispatcher.Config{})
}

func serveWith(t testing.TB, db *pgxpool.Pool, tokens *api.Tokens, cfg dispatcher.Config) *server {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	d, err := dispatcher.New(cfg, dispatcher.Deps{DB: db, Catalog: catalog(t, httpCatalog), Log: testkit.Logger(t), Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(http.NewServeMux(), "test", tokens, slog.New(slog.DiscardHandler))
	d.Routes(a)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	s := &server{Server: httptest.NewServer(a), db: db, reg: reg}
	s.stop = sync.OnceFunc(func() {
		s.Close()
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := reg.Gather(); err != nil {
			t.Errorf("metrics: %v", err)
		}
	})
	go func() { ran <- d.Run(ctx) }()
	t.Cleanup(s.stop)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		err := d.Ready(ctx)
		return err == nil, fmt.Sprint(err)
	})
	return s
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) problem(t testing.TB) api.Problem {
	t.Helper()
	var p api.Problem
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%d %s: %s", r.status, ct, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *server) post(t testing.TB, body io.Reader, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest("POST", s.URL+"/v1/tasks", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if header[i] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

func outbox(t testing.TB, db pg.Querier) (n int) {
	t.Helper()
	if err := db.QueryRow(context.Background(), `select count(*) from perdure.outbox_tasks`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostOneTask(t *testing.T) {
	s := serve(t, database(t), nil)
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	r := s.post(t, strings.NewReader(`{"kind":"refund","payload":{"amount":1}}`), "Traceparent", trace)
	if r.status != 202 || r.body != `{"id":"main-1-1","seq":1,"state":"queued"}`+"\n" {
		t.Fatalf("%+v", r)
	}
	var headers string
	if err := s.db.QueryRow(t.Context(), `select headers::text from perdure.outbox`).Scan(&headers); err != nil || !strings.Contains(headers, trace) {
		t.Fatalf("%s %v", headers, err)
	}
	r = s.post(t, strings.NewReader(`{"kind":"refund","payload":{"amount":1},"run_at":"2999-01-01T00:00:00Z"}`))
	if r.status != 202 || !strings.Contains(r.body, `"state":"scheduled"`) {
		t.Fatalf("%+v", r)
	}
}

func TestPostIsRefusedWithTheField(t *testing.T) {
	s := serve(t, database(t), nil)
	deep := func(n int) string {
		return `{"kind":"any","payload":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for _, c := range []struct {
		body            string
		status          int
		name, pointer   string
		header1, value1 string
	}{
		{``, 400, "malformed-json", "#", "", ""},
		{`{"kind":"any","payload":}`, 400, "malformed-json", "#", "", ""},
		{"{\"kind\":\"any\",\"payload\":\"\x00\"}", 400, "malformed-json", "#", "", ""},
		{"{\"kind\":\"any\",\"payload\":\"\xc3\x28\"}", 400, "malformed-json", "#", "", ""},
		{deep(10000), 422, "invalid-task", "#/payload", "", ""},
		{deep(100_000), 400, "malformed-json", "#", "", ""},
		{deep(200), 422, "invalid-task", "#/payload", "", ""},
		{`{"kind":"any","payload":1,"priority":2}`, 422, "invalid-task", "#/priority", "", ""},
		{`{"kind":"any"}`, 422, "invalid-task", "#/payload", "", ""},
		{`{"kind":"refund","payload":{"amount":0}}`, 422, "invalid-task", "#/payload/amount", "", ""},
		{`{"kind":"nope","payload":1}`, 422, "unknown-kind", "#/kind", "", ""},
		{`{"kind":"any","payload":1,"deadline":"2020-01-01T00:00:00Z"}`, 422, "invalid-task", "#/deadline", "", ""},
		{`{"kind":"any","payload":1,"key":"\u0000"}`, 422, "invalid-task", "#/key", "", ""},
		{`{"kind":"any","payload":1,"headers":{"perdure_run":"1"}}`, 422, "invalid-task", "#/headers/perdure_run", "", ""},
		{`{"kind":"any","payload":1,"unique_key":"u"}`, 422, "invalid-task", "#/unique_key", "", ""},
		{`{"kind":"any","payload":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "too-large", "#/payload", "", ""},
		{`{"kind":"any","payload":"` + strings.Repeat("x", 3<<20) + `"}`, 413, "too-large", "", "", ""},
		{strings.Repeat(" ", 33<<20), 413, "too-large", "", "", ""},
		{`kind=any`, 415, "unsupported-media-type", "", "Content-Type", "application/x-www-form-urlencoded"},
		{`{}`, 415, "unsupported-media-type", "", "Content-Type", ""},
		{`{}`, 415, "unsupported-media-type", "", "Content-Type", "application/json; charset=latin1"},
		{`{}`, 415, "unsupported-media-type", "", "Content-Encoding", "gzip"},
		{`{}`, 422, "invalid-event", "#/header/ce-id", "Ce-Specversion", "1.0"},
		{`{"kind":"any","payload":1}`, 400, "invalid-header", "#/header/Idempotency-Key", "Idempotency-Key", `"half`},
		{`{"kind":"any","payload":1,"idempotency_key":"a"}`, 422, "invalid-task", "#/idempotency_key", "Idempotency-Key", "b"},
		{`[{"kind":"any","payload":1},{"kind":"refund","payload":{"amount":"x"}},{"kind":"nope","payload":1}]`, 422, "invalid-task", "#/1/payload/amount", "", ""},
		{`[{"kind":"any","payload":1},{"kind":"any","payloads":1}]`, 422, "invalid-task", "#/1/payloads", "", ""},
		{`[{"kind":"any","payload":1},]`, 400, "malformed-json", "#", "", ""},
		{`[` + strings.Repeat(`{"kind":"any","payload":1},`, 10000) + `{"kind":"any","payload":1}]`, 413, "too-large", "", "", ""},
	} {
		r := s.post(t, strings.NewReader(c.body), c.header1, c.value1)
		p := r.problem(t)
		if r.status != c.status || p.Status != c.status || p.Name() != c.name || c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
			t.Errorf("%.70s: %d %s", c.body, r.status, r.body)
		}
		if strings.Contains(r.body, "xxxx") {
			t.Errorf("%.70s: the answer holds the value", c.body)
		}
	}
	if n := outbox(t, s.db); n != 0 {
		t.Errorf("%d tasks were accepted", n)
	}
}

func TestArrayIsAcceptedWholeOrNotAtAll(t *testing.T) {
	s := serve(t, database(t), nil)
	r := s.post(t, strings.NewReader(`[{"kind":"any","payload":1},{"kind":"any","payload":2,"idempotency_key":"own"}]`), "Idempotency-Key", `"a"`)
	if r.status != 202 || r.header.Get("Idempotency-Replayed") != "" || !strings.HasPrefix(r.body, `[{"id":"main-1-1","seq":1,"state":"queued"},{"id":"main-1-2"`) {
		t.Fatalf("%+v", r)
	}
	again := s.post(t, strings.NewReader(`[{"kind":"any","payload":1},{"kind":"any","payload":2,"idempotency_key":"own"}]`), "Idempotency-Key", `a`)
	if again.status != 202 || again.header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("%+v", again)
	}
	r = s.post(t, strings.NewReader(`[{"kind":"any","payload":3},{"kind":"any","payload":4,"idempotency_key":"own"}]`))
	if p := r.problem(t); r.status != 422 || p.Name() != "key-reuse" || p.Errors[0].Pointer != "#/1/idempotency_key" {
		t.Fatalf("%+v", r)
	}
	one := s.post(t, strings.NewReader(`{"kind":"any","payload":1}`), "Idempotency-Key", `"a/1"`)
	if one.header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("element 1 has the key a/1: %+v", one)
	}
	if empty := s.post(t, strings.NewReader(`[]`)); empty.status != 202 || empty.body != "[]\n" {
		t.Fatalf("%+v", empty)
	}
	if n := outbox(t, s.db); n != 2 {
		t.Fatalf("%d tasks, want 2", n)
	}
}

func TestIdempotencyKeyOverHTTP(t *testing.T) {
	s := serve(t, database(t), nil)
	body := `{"kind":"any","payload":{"a":1}}`
	first := s.post(t, strings.NewReader(body), "Idempotency-Key", `"k"`)
	again := s.post(t, strings.NewReader(body), "Idempotency-Key", "k")
	if first.status != 202 || again.status != 202 || again.body != first.body || first.header.Get("Idempotency-Replayed") != "" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Fatalf("%+v %+v", first, again)
	}
	other := s.post(t, strings.NewReader(`{"kind":"any","payload":{"a":2}}`), "Idempotency-Key", "k")
	if p := other.problem(t); other.status != 422 || p.Name() != "key-reuse" || p.Next == "" {
		t.Fatalf("%+v", other)
	}
	// Another transaction holds the key and does not end.
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to keep
	if _, err := tx.Exec(t.Context(), `insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values (concat_ws(E'\x1f', 'local', 'any', 'payments'), 'held', 1, 1, '', now() + '1h')`); err != nil {
		t.Fatal(err)
	}
	held := make(chan reply, 1)
	go func() { held <- s.post(t, strings.NewReader(body), "Idempotency-Key", "held") }()
	var wg sync.WaitGroup
	for i := range 50 { // others are not held up
		wg.Go(func() {
			if r := s.post(t, strings.NewReader(body), "Idempotency-Key", fmt.Sprint("free", i%5)); r.status != 202 {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
	r := <-held
	if p := r.problem(t); r.status != 409 || p.Name() != "still-committing" || r.header.Get("Retry-After") == "" {
		t.Fatalf("%+v", r)
	}
	if n := outbox(t, s.db); n != 6 {
		t.Fatalf("%d tasks, want 6", n)
	}
}

func TestConcurrentPostsShareTransactions(t *testing.T) {
	s := serve(t, database(t), nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for i := range 300 {
		wg.Go(func() {
			body := fmt.Sprintf(`{"kind":"refund","payload":{"amount":%d}}`, i) // 0 is refused, alone
			r := s.post(t, strings.NewReader(body))
			mu.Lock()
			defer mu.Unlock()
			if i == 0 && r.status != 422 || i > 0 && (r.status != 202 || ids[r.body]) {
				t.Errorf("%d: %+v", i, r)
			}
			ids[r.body] = true
		})
	}
	wg.Wait()
	var rows, commits int
	if err := s.db.QueryRow(t.Context(), `select count(*), count(distinct xid) from perdure.outbox_tasks`).Scan(&rows, &commits); err != nil || rows != 299 || commits >= rows/2 {
		t.Fatalf("%d tasks in %d transactions, %v", rows, commits, err)
	}
}

func TestTokenIsTheProducer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte("tokens:\n- {name: a, token: aaaaaaaaaaaaaaaa, verbs: [enqueue]}\n- {name: b, token: bbbbbbbbbbbbbbbb, verbs: [enqueue]}\n- {name: r, token: rrrrrrrrrrrrrrrr, verbs: [read-meta]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, database(t), tokens)
	post := func(token, contentType string) reply {
		return s.post(t, strings.NewReader(`{"kind":"any","payload":1}`), "Idempotency-Key", "k", "Authorization", "Bearer "+token, "Content-Type", contentType)
	}
	one, other := post("aaaaaaaaaaaaaaaa", "application/json"), post("bbbbbbbbbbbbbbbb", "application/json")
	if one.status != 202 || other.status != 202 || one.body == other.body {
		t.Fatalf("two producers, one key: %+v %+v", one, other)
	}
	if r := post("bbbbbbbbbbbbbbbb", "application/x-ndjson"); r.status != 200 || strings.Contains(r.body, "replayed") {
		t.Fatalf("line 1 has the key k/1: %+v", r)
	}
	if r := post("rrrrrrrrrrrrrrrr", "application/json"); r.status != 403 {
		t.Fatalf("%+v", r)
	}
	if r := post("nobodynobodynobo", "application/json"); r.status != 401 {
		t.Fatalf("%+v", r)
	}
}

func results(t testing.TB, body io.Reader) (all []dispatcher.LineResult) {
	t.Helper()
	sc := bufio.NewScanner(body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l dispatcher.LineResult
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatalf("%s: %v", sc.Text(), err)
		}
		all = append(all, l)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLinesOfAKnownLengthCommitTogether, though net/http has read only the first
// few of them with the head.
func TestLinesOfAKnownLengthCommitTogether(t *testing.T) {
	s := serve(t, database(t), nil)
	line := `{"kind":"any","payload":"` + strings.Repeat("x", 1000) + "\"}\n"
	r := s.post(t, strings.NewReader(strings.Repeat(line, 200)), "Content-Type", "application/x-ndjson")
	if r.status != 200 || strings.Count(r.body, `"id"`) != 200 {
		t.Fatalf("%d: %.300s", r.status, r.body)
	}
	var transactions int
	if err := s.db.QueryRow(t.Context(), `select count(distinct xid) from perdure.outbox`).Scan(&transactions); err != nil || transactions != 1 {
		t.Fatalf("%d transactions, want 1: %v", transactions, err)
	}
}

func TestBadLinesAreAnsweredAndTheRestGoesOn(t *testing.T) {
	s := serve(t, database(t), nil)
	lines := []struct{ text, problem string }{
		{`{"kind":"any","payload":1}`, ""},
		{`{"kind":"any","payload":1`, "malformed-json"},
		{"", "-"},
		{`{"kind":"refund","payload":{"amount":-1}}`, "invalid-task"},
		{`{"kind":"nope","payload":1}`, "unknown-kind"},
		{"{\"kind\":\"any\",\"payload\":\"\xff\"}", "malformed-json"},
		{"{\"kind\":\"any\",\"payload\":\"\x00\"}", "malformed-json"},
		{`{"kind":"any","payload":"` + strings.Repeat("x", 2<<20) + `"}`, "too-large"},
		{`{"kind":"any","payload":"` + strings.Repeat("x", 1<<20) + `"}`, "too-large"},
		{`{"kind":"any","payload":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`, "invalid-task"},
		{`{"kind":"any","payload":1,"deadline":"1999-01-01T00:00:00Z"}`, "invalid-task"},
		{`{"kind":"any","payload":1,"idempotency_key":"x"}`, ""},
		{`{"kind":"any","payload":2,"idempotency_key":"x"}`, "key-reuse"},
		{`{"kind":"any","payload":1,"idempotency_key":"x"}`, ""},
		{`{"kind":"any","payload_base64":"AAE=","content_type":"application/octet-stream"}`, ""},
		{`[]`, "malformed-json"},
		{`{"kind":"any","payload":"last"}`, ""},
	}
	var text []string
	for _, l := range lines {
		text = append(text, l.text)
	}
	r := s.post(t, strings.NewReader(strings.Join(text, "\n")), "Content-Type", "application/x-ndjson")
	if r.status != 200 || r.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%+v", r)
	}
	got := results(t, strings.NewReader(r.body))
	for i, l := range lines {
		if l.problem == "-" {
			continue
		}
		if len(got) == 0 || got[0].Line != i+1 {
			t.Fatalf("line %d is not answered: %+v", i+1, got)
		}
		name := ""
		if got[0].Problem != nil {
			name = got[0].Name()
		}
		if name != l.problem || (name == "") != (got[0].ID != "") {
			t.Errorf("line %d: %+v, want %q", i+1, got[0], l.problem)
		}
		got = got[1:]
	}
	if n := outbox(t, s.db); n != 4 {
		t.Errorf("%d tasks, want 4", n)
	}
	if len(got) != 0 {
		t.Errorf("more answers than lines: %+v", got)
	}
}

func TestClientThatReadsNothingUntilItHasSentAll(t *testing.T) {
	s := serve(t, database(t), nil)
	const n = 100_000
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	line := `{"kind":"nope","payload":1}` + "\n" // its answer is many times longer
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n", n*len(line))
	if _, err := io.Copy(conn, strings.NewReader(strings.Repeat(line, n))); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all := results(t, res.Body)
	if len(all) != n || all[n-1].Line != n {
		t.Fatalf("%d answers for %d lines", len(all), n)
	}
}

func TestAnswersComeWhileTheClientStillSends(t *testing.T) {
	s := serve(t, database(t), nil)
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/tasks", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() { _, _ = send.Write([]byte(`{"kind":"any","payload":1}` + "\n")) }()
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answers := bufio.NewReader(res.Body)
	for i := range 5 {
		line, err := answers.ReadBytes('\n')
		if err != nil || !bytes.Contains(line, fmt.Appendf(nil, `"line":%d,`, i+1)) {
			t.Fatalf("%s %v", line, err)
		}
		if i < 4 {
			if _, err := send.Write([]byte(`{"kind":"any","payload":1}` + "\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := send.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(answers); err != nil || len(rest) != 0 {
		t.Fatalf("%q %v", rest, err)
	}
}

func TestPostgresAwayIsSaidAndMends(t *testing.T) {
	own := testkit.OwnPostgres(t, "15")
	if err := pg.Migrate(t.Context(), own.URL(), "main"); err != nil {
		t.Fatal(err)
	}
	db, err := pg.Pool(t.Context(), own.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := serve(t, db, nil)
	kinds := map[string][]string{
		`{"kind":"any","payload":1}`:                         nil,
		`[{"kind":"any","payload":1}]`:                       nil,
		`{"kind":"any","payload":1,"idempotency_key":"k"}`:   nil,
		`{"kind":"any","payload":1}` + "\n":                  {"Content-Type", "application/x-ndjson"},
		`{"kind":"any","payload":1,"idempotency_key":"k"}  `: {"Content-Type", "application/x-ndjson"},
	}
	if err := own.Kill(); err != nil {
		t.Fatal(err)
	}
	for body, header := range kinds {
		r := s.post(t, strings.NewReader(body), header...)
		if p := r.problem(t); r.status != 503 || p.Name() != "unavailable" || r.header.Get("Retry-After") == "" || p.Next == "" {
			t.Errorf("%s: %+v", body, r)
		}
	}
	if err := own.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for body, header := range kinds {
		testkit.Eventually(t, 20*time.Second, func() (bool, string) {
			r := s.post(t, strings.NewReader(body), header...)
			return r.status < 300, r.body
		})
	}
}
