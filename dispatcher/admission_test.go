package dispatcher_test

// What a token may enqueue a second and a day, and the backlog that closes the
// gate: counted in the outbox.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
)

// heldClock moves only when it is told to.
type heldClock struct{ at atomic.Int64 }

func holdClock(at string) *heldClock {
	start, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	c := &heldClock{}
	c.at.Store(start.UnixNano())
	return c
}

func (c *heldClock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *heldClock) forward(d time.Duration) { c.at.Add(int64(d)) }

const (
	tokenA = "aaaaaaaaaaaaaaaa"
	tokenB = "bbbbbbbbbbbbbbbb"
)

// limited are the tokens a, with these limits, and b, with none.
func limited(t *testing.T, limits string) *api.Tokens {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	text := fmt.Sprintf("tokens:\n- {name: a, token: %s, verbs: [enqueue], %s}\n- {name: b, token: %s, verbs: [enqueue]}\n", tokenA, limits, tokenB)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func (s *server) as(t testing.TB, token, body string, header ...string) reply {
	t.Helper()
	return s.post(t, strings.NewReader(body), append(header, "Authorization", "Bearer "+token)...)
}

func (s *server) lines(t testing.TB, token string, body io.Reader) (status, accepted int, problems map[string]int) {
	t.Helper()
	r := s.post(t, body, "Authorization", "Bearer "+token, "Content-Type", "application/x-ndjson")
	problems = map[string]int{}
	if r.status != http.StatusOK {
		p := r.problem(t)
		problems[p.Name()]++
		return r.status, 0, problems
	}
	for _, l := range results(t, strings.NewReader(r.body)) {
		if l.Problem != nil {
			problems[l.Name()]++
		} else {
			accepted++
		}
	}
	return r.status, accepted, problems
}

// gauge is the value of a metric without labels, or of its first.
func (s *server) gauge(t testing.TB, name string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

const (
	one     = `{"kind":"any","payload":1}`
	oneLine = one + "\n"
)

func array(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }

func want(t testing.TB, what string, r reply, status int, problem, retryAfter string) {
	t.Helper()
	name := ""
	if r.status >= 400 {
		p := r.problem(t)
		if name = p.Name(); p.Next == "" {
			t.Errorf("%s: nothing says what to do: %s", what, r.body)
		}
	}
	if r.status != status || name != problem || r.header.Get("Retry-After") != retryAfter {
		t.Errorf("%s: %d %q Retry-After %q, want %d %q %q\n%s", what, r.status, name, r.header.Get("Retry-After"), status, problem, retryAfter, r.body)
	}
}

func TestRateCountsTasks(t *testing.T) {
	clock := holdClock("2026-05-01T12:00:00Z")
	s := serveWith(t, database(t), limited(t, "rate: 5/s, burst: 10"), dispatcher.Config{}.WithClock(clock.now))
	var wg sync.WaitGroup
	var accepted, refused atomic.Int64
	for range 30 {
		wg.Go(func() {
			r := s.as(t, tokenA, one)
			if r.status == 202 {
				accepted.Add(1)
				return
			}
			want(t, "over the rate", r, 429, "rate-limited", "1")
			refused.Add(1)
		})
	}
	wg.Wait()
	if accepted.Load() != 10 || refused.Load() != 20 {
		t.Errorf("%d accepted and %d refused of 30, want 10 and 20", accepted.Load(), refused.Load())
	}
	want(t, "an array over the rate", s.as(t, tokenA, array(10)), 429, "rate-limited", "2")
	want(t, "an array over the burst", s.as(t, tokenA, array(11)), 413, "too-many-tasks", "")
	want(t, "no tasks at all", s.as(t, tokenA, `[]`), 202, "", "")
	want(t, "another token", s.as(t, tokenB, array(500)), 202, "", "")
	clock.forward(time.Second)
	want(t, "six, where five are there", s.as(t, tokenA, array(6)), 429, "rate-limited", "1")
	want(t, "five", s.as(t, tokenA, array(5)), 202, "", "")
	clock.forward(time.Hour) // the bucket holds no more than the burst
	want(t, "a key", s.as(t, tokenA, one, "Idempotency-Key", "k"), 202, "", "")
	want(t, "the key again", s.as(t, tokenA, one, "Idempotency-Key", "k"), 202, "", "")
	want(t, "a bad task", s.as(t, tokenA, `{"kind":"nope","payload":1}`), 422, "unknown-kind", "")
	want(t, "eight, where seven are left", s.as(t, tokenA, array(8)), 429, "rate-limited", "1")
	want(t, "seven", s.as(t, tokenA, array(7)), 202, "", "")
	if n := outbox(t, s.db); n != 10+500+5+1+7 {
		t.Errorf("%d tasks, want 523", n)
	}
}

func TestLinesOverTheRateAreSlowedDown(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "rate: 20/s, burst: 5"), dispatcher.Config{})
	start := time.Now()
	if status, n, problems := s.lines(t, tokenA, strings.NewReader(strings.Repeat(oneLine, 25))); status != 200 || n != 25 || len(problems) != 0 {
		t.Errorf("%d: %d accepted of 25, refused %v", status, n, problems)
	}
	if took := time.Since(start); took < 950*time.Millisecond { // 5 at once, 20 at 20/s
		t.Errorf("25 lines took %s", took)
	}
	// What would wait too long is told so, at once and line by line.
	s = serveWith(t, database(t), limited(t, "rate: 1/h"), dispatcher.Config{})
	if status, n, problems := s.lines(t, tokenA, strings.NewReader(strings.Repeat(oneLine, 3))); status != 200 || n != 1 || problems["rate-limited"] != 2 {
		t.Errorf("%d: %d accepted of 3, refused %v", status, n, problems)
	}
}

// TestWaitingIsNotIdleness: an answer too large for the server's buffer comes
// later than a client that takes nothing would be cut off.
func TestWaitingIsNotIdleness(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "rate: 30/m, burst: 1"), dispatcher.Config{}.WithWaits(0, time.Second))
	var wrong strings.Builder
	for i := range 300 {
		fmt.Fprintf(&wrong, `,"no-such-field-%d":1`, i)
	}
	body := oneLine + `{"kind":"any","payload":1` + wrong.String() + "}\n" // after two seconds
	if status, n, problems := s.lines(t, tokenA, strings.NewReader(body)); status != 200 || n != 1 || problems["invalid-task"] != 1 {
		t.Errorf("%d: %d accepted, refused %v", status, n, problems)
	}
}

func TestQuotaHoldsForAllDispatchersTogether(t *testing.T) {
	clock := holdClock("2026-05-01T23:59:30Z")
	db, tokens := database(t), limited(t, "quota: 3000")
	cfg := dispatcher.Config{}.WithClock(clock.now)
	servers := []*server{serveWith(t, db, tokens, cfg), serveWith(t, db, tokens, cfg)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted, problems := 0, map[string]int{}
	for i := range 6 {
		wg.Go(func() { // 7 of 10 lines are good
			_, n, p := servers[i%2].lines(t, tokenA, strings.NewReader(strings.Repeat(strings.Repeat(oneLine, 7)+strings.Repeat(`{"kind":"nope","payload":1}`+"\n", 3), 100)))
			mu.Lock()
			defer mu.Unlock()
			accepted += n
			for name, n := range p {
				problems[name] += n
			}
		})
		wg.Go(func() {
			for range 5 {
				n := 0
				if r := servers[i%2].as(t, tokenA, array(20)); r.status == 202 {
					n = 20
				}
				mu.Lock()
				accepted += n
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := 1; n > 0; { // what bad lines held for a moment was free again
		n = 0
		for _, s := range servers {
			if s.as(t, tokenA, one).status == 202 {
				n++
			}
		}
		accepted += n
	}
	if n := outbox(t, db); n != 3000 || accepted != 3000 {
		t.Errorf("%d accepted, %d in the outbox, want 3000; refused %v", accepted, n, problems)
	}
	for _, s := range servers {
		want(t, "the quota is used up", s.as(t, tokenA, one), 429, "quota-exceeded", "30")
		want(t, "a stream", s.as(t, tokenA, oneLine, "Content-Type", "application/x-ndjson"), 429, "quota-exceeded", "30")
		want(t, "more than a day's", s.as(t, tokenA, array(3001)), 413, "too-many-tasks", "")
		want(t, "another token", s.as(t, tokenB, one), 202, "", "")
		if left := s.gauge(t, "perdure_dispatcher_quota_left_tasks"); left != 0 {
			t.Errorf("%v left, says the metric", left)
		}
	}
	clock.forward(30 * time.Second)
	want(t, "the next day", servers[0].as(t, tokenA, array(2999)), 202, "", "")
	want(t, "its last task", servers[1].as(t, tokenA, one), 202, "", "")
	want(t, "one more", servers[1].as(t, tokenA, one), 429, "quota-exceeded", "86400")
}

func TestQuotaCountsNewTasks(t *testing.T) {
	clock := holdClock("2026-05-01T12:00:00Z")
	db, tokens := database(t), limited(t, "quota: 4")
	s := serveWith(t, db, tokens, dispatcher.Config{}.WithClock(clock.now))
	for range 9 {
		want(t, "a bad task", s.as(t, tokenA, `{"kind":"nope","payload":1}`), 422, "unknown-kind", "")
		want(t, "a bad array", s.as(t, tokenA, `[`+one+`,{"kind":"nope","payload":1}]`), 422, "unknown-kind", "")
		want(t, "a key", s.as(t, tokenA, one, "Idempotency-Key", "k"), 202, "", "")
		want(t, "the key in an array", s.as(t, tokenA, `[{"kind":"any","payload":1,"idempotency_key":"k"}]`), 202, "", "")
		want(t, "a unique key", s.as(t, tokenA, `{"kind":"only","payload":1,"unique_key":"u"}`), 202, "", "")
		if _, n, problems := s.lines(t, tokenA, strings.NewReader(`{"kind":"any","payload":1,"idempotency_key":"k"}`+"\n")); n != 1 {
			t.Errorf("the key in a line: %v", problems)
		}
	}
	want(t, "the third", s.as(t, tokenA, one), 202, "", "")
	want(t, "two, where one is left", s.as(t, tokenA, array(2)), 429, "quota-exceeded", "43200")
	want(t, "the fourth", s.as(t, tokenA, one), 202, "", "")
	want(t, "the fifth", s.as(t, tokenA, one), 429, "quota-exceeded", "43200")
	want(t, "the key, when nothing is left", s.as(t, tokenA, one, "Idempotency-Key", "k"), 429, "quota-exceeded", "43200")
	if n := outbox(t, db); n != 4 {
		t.Errorf("%d tasks, want 4", n)
	}
}

func reserved(t testing.TB, db *pgxpool.Pool) (n int64) {
	t.Helper()
	if err := db.QueryRow(context.Background(), `select coalesce(sum(reserved), 0) from perdure.quotas where principal = 'a'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestQuotaOutlivesTheProcess(t *testing.T) {
	clock := holdClock("2026-05-20T12:00:00Z")
	db, tokens := database(t), limited(t, "quota: 5000")
	if _, err := db.Exec(t.Context(), `insert into perdure.quotas (day, principal, reserved, granted) values ('2026-05-11', 'a', 7, 7), ('2026-05-12', 'a', 8, 8)`); err != nil {
		t.Fatal(err)
	}
	s := serveWith(t, db, tokens, dispatcher.Config{}.WithClock(clock.now))
	want(t, "the first", s.as(t, tokenA, one), 202, "", "")
	testkit.Eventually(t, 30*time.Second, func() (bool, string) { // a block of 5; of the old days one is pruned
		n := reserved(t, db)
		return n == 8+5, fmt.Sprint(n, " reserved")
	})
	s.stop()
	if n := reserved(t, db); n != 8+1 {
		t.Errorf("%d reserved after a stop, want what was used", n-8)
	}
	s = serveWith(t, db, tokens, dispatcher.Config{}.WithClock(clock.now))
	want(t, "what is left", s.as(t, tokenA, array(4999)), 202, "", "")
	want(t, "one more", s.as(t, tokenA, one), 429, "quota-exceeded", "43200")
}

// relayed moves the cursor so that left rows of the outbox, each of a
// transaction of its own, wait.
func relayed(t testing.TB, db *pgxpool.Pool, left int) {
	t.Helper()
	if _, err := db.Exec(context.Background(), `
		insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline)
		select 'main', 1, format('%1$s:%1$s:', coalesce((select xid from perdure.outbox order by xid desc offset $1 limit 1)::text::bigint + 1, 3))::pg_snapshot, '', 1, ''
		on conflict (shard) do update set prev = excluded.prev`, left); err != nil {
		t.Fatal(err)
	}
}

// sendAllThenRead posts lines as a client does that looks at no answer before it
// has sent everything.
func (s *server) sendAllThenRead(t testing.TB, lines string) reply {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n", tokenA, len(lines))
	if _, err := io.WriteString(conn, lines); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
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

func TestBacklogClosesTheGate(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "streams: 5"), dispatcher.Config{OutboxLimit: 20}.WithWaits(time.Hour, 0))
	// A stream that runs when the gate closes.
	body, send := io.Pipe()
	defer send.Close()
	streamed := make(chan string, 1)
	go func() {
		status, n, problems := s.lines(t, tokenA, body)
		streamed <- fmt.Sprint(status, n, problems)
	}()
	if _, err := io.WriteString(send, oneLine); err != nil {
		t.Fatal(err)
	}
	for range 19 {
		if _, err := s.db.Exec(t.Context(), `select perdure.enqueue(kind => 'any', payload => '1')`); err != nil {
			t.Fatal(err)
		}
	}
	closed := func(is float64) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, func() (bool, string) {
			v, rows := s.gauge(t, "perdure_dispatcher_admission_closed"), s.gauge(t, "perdure_dispatcher_outbox_backlog_tasks")
			return v == is, fmt.Sprintf("closed: %v, backlog %v", v, rows)
		})
	}
	closed(1)
	refusedNow := func() {
		t.Helper()
		want(t, "one", s.as(t, tokenA, one), 503, "backlog", "5")
		want(t, "an array", s.as(t, tokenA, array(2)), 503, "backlog", "5")
		want(t, "a stream", s.sendAllThenRead(t, strings.Repeat(oneLine, 200_000)), 503, "backlog", "5")
	}
	refusedNow()
	if _, err := io.WriteString(send, oneLine+oneLine); err != nil { // they wait
		t.Fatal(err)
	}
	if s.gauge(t, "perdure_dispatcher_outbox_limit_tasks") != 20 {
		t.Error("the metric tells another limit")
	}
	relayed(t, s.db, 18)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		rows := s.gauge(t, "perdure_dispatcher_outbox_backlog_tasks")
		return rows == 18, fmt.Sprint("backlog ", rows)
	})
	refusedNow() // 18 of 20 are not under 90 %
	if n := outbox(t, s.db); n != 20 {
		t.Errorf("%d tasks, want 20", n)
	}
	relayed(t, s.db, 17)
	closed(0)
	want(t, "one, after it opened", s.as(t, tokenA, one), 202, "", "")
	if err := send.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-streamed; got != "200 3 map[]" {
		t.Errorf("the stream that ran: %s, want all three lines accepted", got)
	}
}

func TestLineThatWaitsTooLongForTheBacklogHearsSo(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "streams: 5"), dispatcher.Config{OutboxLimit: 2}.WithWaits(2*time.Second, 0))
	body, send := io.Pipe()
	streamed := make(chan string, 1)
	go func() {
		status, n, problems := s.lines(t, tokenA, body)
		streamed <- fmt.Sprint(status, n, problems)
	}()
	if _, err := io.WriteString(send, oneLine+oneLine); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		return s.gauge(t, "perdure_dispatcher_admission_closed") == 1, "not closed"
	})
	if _, err := io.WriteString(send, strings.Repeat(oneLine, 50)); err != nil {
		t.Fatal(err)
	}
	if err := send.Close(); err != nil {
		t.Fatal(err)
	}
	select { // the first of them waits, the others do not
	case got := <-streamed:
		if got != "200 2 map[backlog:50]" {
			t.Errorf("got %s, want two lines accepted and 50 refused", got)
		}
	case <-time.After(40 * time.Second):
		t.Error("each line waited")
	}
}

func TestStreamsOfAToken(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "streams: 2"), dispatcher.Config{})
	var sends []*io.PipeWriter
	done := make(chan int, 2)
	for range 2 {
		body, send := io.Pipe()
		sends = append(sends, send)
		go func() {
			_, n, _ := s.lines(t, tokenA, body)
			done <- n
		}()
		if _, err := io.WriteString(send, oneLine); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) { return outbox(t, s.db) == 2, "not both began" })
	want(t, "a third", s.as(t, tokenA, oneLine, "Content-Type", "application/x-ndjson"), 429, "too-many-streams", "2")
	want(t, "one task", s.as(t, tokenA, one), 202, "", "")
	want(t, "another token", s.as(t, tokenB, oneLine, "Content-Type", "application/x-ndjson"), 200, "", "")
	for _, send := range sends {
		send.Close()
		if n := <-done; n != 1 {
			t.Errorf("a stream had %d tasks accepted, want 1", n)
		}
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		r := s.as(t, tokenA, oneLine, "Content-Type", "application/x-ndjson")
		return r.status == 200, r.body
	})
}
