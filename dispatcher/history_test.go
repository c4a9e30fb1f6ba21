package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// servers answer for Redis and Kafka as a test wants.
type servers struct {
	mu        sync.Mutex
	claims    map[string]claims.Claim
	committed int64
	redis     error
	cancels   error // what Redis says to a cancel
	heard     claims.Progress
	kafka     error
}

func (s *servers) Get(_ context.Context, ids ...string) ([]claims.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]claims.Claim, len(ids))
	for i, id := range ids {
		out[i] = s.claims[id]
	}
	return out, s.redis
}

func (s *servers) Progress(context.Context, string) (claims.Progress, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard, s.redis
}

// Cancel does what the store's script does.
func (s *servers) Cancel(_ context.Context, id string) (claims.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.claims[id]
	switch c.State {
	case claims.Running:
		c.Cancel = true
	case claims.None, claims.Waiting:
		c.State = claims.Cancelled
	}
	s.claims[id] = c
	return c, s.cancels
}

func (s *servers) Committed(context.Context, string, string, int32) (int64, error) {
	return s.committed, s.kafka
}

func (s *servers) set(id string, c claims.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[id] = c
}

type historyRig struct {
	t *testing.T
	*History
	*servers
	db *pgxpool.Pool
}

func newHistoryRig(t *testing.T) *historyRig {
	t.Helper()
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s := &servers{claims: map[string]claims.Claim{}}
	h, err := NewHistory(HistoryDeps{DB: db, Claims: s, Offsets: s, Source: testkit.MigratedSource})
	if err != nil {
		t.Fatal(err)
	}
	return &historyRig{t, h, s, db}
}

func (r *historyRig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

// accept writes an outbox row and returns its seq and the task's id.
func (r *historyRig) accept(taskID *string, epoch int, runAt *time.Time) (int64, string) {
	r.t.Helper()
	var seq int64
	if err := r.db.QueryRow(r.t.Context(), `insert into perdure.outbox (epoch, kind, queue, key, payload, task_id, run_at) values ($1, 'k', 'q', 'acct', '{}', $2, $3) returning id`,
		epoch, taskID, runAt).Scan(&seq); err != nil {
		r.t.Fatal(err)
	}
	return seq, fmt.Sprintf("main-1-%d", seq)
}

func (r *historyRig) relay(seq int64, topic string, offset int64) {
	r.t.Helper()
	r.exec(`insert into perdure.relay_log (shard, first_id, last_id, tasks, replays, hops) values ('main', $1, $1, 1, 0, $2)`,
		seq, relaylog.Encode([]relaylog.Hop{{ID: seq, Topic: topic, Partition: 3, Offset: offset}}))
}

func (r *historyRig) letter(id string, epoch int, state, by string) {
	r.t.Helper()
	r.exec(`with u as (update perdure.dead_letters set state = $3, resolved_by = $4, changed_at = clock_timestamp() where letter = $1 || '@' || $2::text returning 1)
insert into perdure.dead_letters (letter, task_id, epoch, kind, queue, state, resolved_by, reason, error_class, fingerprint, attempts, origin_topic, origin_partition, origin_offset,
  dlq_topic, dlq_partition, dlq_offset, died_at)
select $1 || '@' || $2::text, $1, $2::int, 'k', 'q', $3, $4, 'exhausted', 'HTTP 500', 'f', $5::jsonb, 'tasks.q', 3, 1, 'dlq.q', 0, 4, now() where not exists (select from u)`, id, fmt.Sprint(epoch), state, by,
		fmt.Sprintf(`[{"n":1,"run":7,"start":%q,"end":%q,"worker":"w1","error_class":"HTTP 503","message":"busy"},{"cut":3},{"n":5,"run":9}]`,
			time.Now().Add(-time.Second).Format(time.RFC3339Nano), time.Now().Add(-900*time.Millisecond).Format(time.RFC3339Nano)))
}

func (r *historyRig) event(id string, offset int, kind, data string, epoch, attempt int, run int64) {
	r.t.Helper()
	r.exec(`insert into perdure.events (topic, partition, "offset", task_id, epoch, attempt, run, type, at, data) values ('events.q', 0, $1, $2, $3, $4, $5, $6, now(), $7::jsonb)`,
		offset, id, epoch, attempt, run, kind, data)
}

func (r *historyRig) want(id string, state schemas.State, hops ...string) *TaskView {
	r.t.Helper()
	v, err := r.History.Get(r.t.Context(), id)
	if err != nil {
		r.t.Fatalf("%s: %v", id, err)
	}
	var got []string
	for _, h := range v.Timeline {
		got = append(got, h.What)
	}
	if v.State != state || (hops != nil && strings.Join(got, " ") != strings.Join(hops, " ")) {
		r.t.Errorf("%s is %s %v, want %s %v", id, v.State, got, state, hops)
	}
	return v
}

// One task through its whole life: every hop is told.
func TestHistoryFollowsATask(t *testing.T) {
	r := newHistoryRig(t)
	r.committed = 0
	seq, id := r.accept(nil, 0, nil)
	r.want(id, "queued", "accepted")
	r.relay(seq, "tasks.q", 17)
	if v := r.want(id, "queued", "accepted", "relayed"); *v.Timeline[1].Offset != 17 || *v.Timeline[1].Partition != 3 || v.Key != "acct" {
		t.Errorf("%+v", v)
	}
	r.set(id, claims.Claim{State: claims.Running, Attempt: 1, Run: 7, Owner: "w1"})
	if v := r.want(id, "running"); v.Worker != "w1" || v.Run != 7 {
		t.Errorf("%+v", v)
	}
	heard := time.Now()
	r.mu.Lock()
	r.heard = claims.Progress{Run: 7, At: heard, Value: []byte(`{"n":1}`)}
	r.mu.Unlock()
	if v := r.want(id, "running"); v.Progress == nil || !v.Progress.At.Equal(heard) || string(v.Progress.Value) != `{"n":1}` {
		t.Errorf("%+v", v.Progress)
	}
	r.set(id, claims.Claim{State: claims.Waiting, Attempt: 2, Run: 7, Due: heard.Add(time.Hour), Elsewhere: time.Hour})
	if v := r.want(id, "waiting"); v.Waits != schemas.WaitExternal || v.Attempt != 1 || v.Due != nil || v.Progress == nil {
		t.Errorf("%+v", v)
	}
	r.set(id, claims.Claim{State: claims.Waiting, Attempt: 2, Run: 7, Elsewhere: time.Hour, Report: []byte("{}")})
	if v := r.want(id, "retrying"); v.Progress != nil {
		t.Errorf("%+v", v)
	}
	r.set(id, claims.Claim{State: claims.Running, Attempt: 1, Run: 8, Owner: "w1"})
	if v := r.want(id, "running"); v.Progress != nil {
		t.Errorf("another run's: %+v", v.Progress)
	}
	due := time.Now().Add(time.Minute)
	r.event(id, 1, "failed", `{"next_at":"2026-01-01T00:00:00Z"}`, 0, 1, 7)
	r.set(id, claims.Claim{State: claims.Waiting, Attempt: 2, Due: due})
	if v := r.want(id, "retrying", "accepted", "relayed", "attempt"); !v.Due.Equal(due) || v.Attempt != 2 {
		t.Errorf("%+v", v)
	}
	r.event(id, 2, "waiting", `{"reason":"breaker"}`, 0, 2, 7)
	if v := r.want(id, "waiting"); v.Waits != schemas.WaitBreaker {
		t.Errorf("%+v", v)
	}
	r.set(id, claims.Claim{State: claims.Dead, Reason: "exhausted"})
	r.event(id, 3, "dead", `{}`, 0, 5, 9)
	if v := r.want(id, "dead"); v.Reason != "exhausted" || v.Letter != "" {
		t.Errorf("%+v", v)
	}
	r.letter(id, 0, "open", "")
	// The event of the attempt that the letter holds too is told once.
	if v := r.want(id, "dead", "accepted", "relayed", "attempt", "waiting", "attempt", "dead"); v.Letter != id+"@0" {
		t.Errorf("%+v", v)
	}
	// Replayed: epoch 1.
	r.exec(`insert into perdure.replays (replay, state, selector, who) values ('r-1', 'done', '{}', 't')`)
	seq2, _ := r.accept(&id, 1, nil)
	r.exec(`insert into perdure.replay_letters (replay, letter, n, result, seq, done_at) values ('r-1', $1, 1, 'replayed', $2, clock_timestamp())`, id+"@0", seq2)
	r.letter(id, 0, "replaying", "")
	if v := r.want(id, "queued"); v.Epoch != 1 || v.Timeline[len(v.Timeline)-1].What != "replayed" {
		t.Errorf("%+v", v)
	}
	r.relay(seq2, "tasks.q", 90)
	if v := r.want(id, "queued"); *v.Timeline[len(v.Timeline)-1].Offset != 90 {
		t.Errorf("%+v", v)
	}
	r.set(id, claims.Claim{State: claims.Done})
	r.letter(id, 0, "resolved", "completed")
	r.event(id, 4, "result", `{"ok":true}`, 1, 1, 11)
	r.letter(id, 0, "resolved", "completed")
	if v := r.want(id, "completed"); string(v.Result) != `{"ok": true}` || v.Timeline[len(v.Timeline)-1].What != "completed" {
		t.Errorf("%+v", v)
	}
	// The replay's outbox row is no task of its own.
	if _, err := r.History.Get(t.Context(), fmt.Sprintf("main-1-%d", seq2)); !errors.Is(err, ErrNeverKnown) {
		t.Errorf("a replay's row is shown as a task: %v", err)
	}
}

func TestHistoryStates(t *testing.T) {
	r := newHistoryRig(t)
	r.committed = 50
	// Redis no longer knows, and its record is committed.
	seq, id := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 49)
	if v := r.want(id, "completed", "accepted", "relayed", "completed"); !v.Inferred {
		t.Error("not said to be inferred")
	}
	// The same, but its retry is still on its way: Redis was flushed.
	r.event(id, 1, "failed", fmt.Sprintf(`{"next_at":%q}`, time.Now().Add(time.Hour).Format(time.RFC3339)), 0, 1, 1)
	r.want(id, "retrying")

	due := time.Now().Add(time.Hour)
	seq, id = r.accept(nil, 0, &due)
	r.want(id, "scheduled", "accepted", "scheduled")
	r.exec(`insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked) select id, run_at, generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.outbox where id = $1`, seq)
	r.want(id, "scheduled", "accepted", "scheduled")
	r.exec(`delete from perdure.scheduled`)
	r.relay(seq, "tasks.q", 60)
	r.want(id, "queued", "accepted", "scheduled", "relayed")

	seq, id = r.accept(nil, 0, nil)
	r.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked) select id, 'topic is gone', generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.outbox where id = $1`, seq)
	if v := r.want(id, "queued", "accepted", "parked"); v.Timeline[1].Detail != "topic is gone" {
		t.Errorf("%+v", v)
	}
	r.exec(`insert into perdure.held (id, was, generation, epoch, created_at, kind, queue, content_type, payload, checked) select id, 'parked', generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.parked`)
	r.exec(`delete from perdure.parked`)
	r.want(id, "queued", "accepted", "held")

	seq, id = r.accept(nil, 0, nil)
	r.relay(seq, "dlq.q", 3) // refused by the relay
	r.want(id, "dead")
	r.letter(id, 0, "discarded", "discard")
	r.want(id, "discarded")

	// A failover lost its death: the claim says what was before, the letter what is.
	for _, state := range []claims.State{claims.Running, claims.Waiting} {
		_, id = r.accept(nil, 0, nil)
		r.letter(id, 0, "open", "")
		r.set(id, claims.Claim{State: state, Stale: true})
		r.want(id, "dead")
		r.set(id, claims.Claim{State: state, Epoch: 1, Stale: true}) // its replay was claimed since
		if v, err := r.History.Get(t.Context(), id); err != nil || v.State == "dead" {
			t.Errorf("%+v %v", v, err)
		}
	}

	_, id = r.accept(nil, 0, nil)
	r.set(id, claims.Claim{State: claims.Cancelled})
	r.want(id, "cancelled")
}

func TestHistoryGoneAndNeverKnown(t *testing.T) {
	r := newHistoryRig(t)
	_, first := r.accept(nil, 0, nil)
	_, last := r.accept(nil, 0, nil)
	r.exec(`select nextval('perdure.outbox_id_seq')`) // a transaction that rolled back: never accepted
	get := func(id string) error { _, err := r.History.Get(t.Context(), id); return err }
	for _, id := range []string{"main-1-3", "main-1-4", "main-1-999999", "other-1-1", "main-2-1", "x", ""} {
		if err := get(id); !errors.Is(err, ErrNeverKnown) {
			t.Errorf("%q: %v", id, err)
		}
	}
	r.exec(`delete from perdure.outbox`)
	for _, id := range []string{first, last} {
		if err := get(id); !errors.Is(err, ErrHistoryGone) {
			t.Errorf("%q: %v", id, err)
		}
	}
	r.set(first, claims.Claim{State: claims.Done})
	r.want(first, "completed", "completed") // Redis remembers longer
}

func TestHistoryWaitsAndSaysWhoIsAway(t *testing.T) {
	r := newHistoryRig(t)
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	r.Routes(a)
	call := func(path string) (int, string) {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil))
		return w.Code, w.Body.String()
	}
	seq, id := r.accept(nil, 0, nil)
	go func() {
		time.Sleep(60 * time.Millisecond) // the task's own duration
		r.set(id, claims.Claim{State: claims.Done})
	}()
	start := time.Now()
	if code, body := call("/v1/tasks/" + id + "?wait=20s"); code != 200 || !strings.Contains(body, `"state":"completed"`) || time.Since(start) > 10*time.Second {
		t.Errorf("%d %s after %v", code, body, time.Since(start))
	}
	r.set(id, claims.Claim{State: claims.Running})
	if code, body := call("/v1/tasks/" + id + "?wait=50ms"); code != 200 || !strings.Contains(body, `"state":"running"`) {
		t.Errorf("%d %s", code, body)
	}
	for path, want := range map[string]int{"/v1/tasks/main-1-99": 404, "/v1/tasks/" + id + "?wait=soon": 422, "/v1/tasks/" + id + "?wait=-1s": 422} {
		if code, body := call(path); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	r.set(id, claims.Claim{})
	r.relay(seq, "tasks.q", 1)
	r.kafka = errors.New("broker gone")
	if code, body := call("/v1/tasks/" + id); code != 503 || !strings.Contains(body, "Kafka") {
		t.Errorf("%d %s", code, body)
	}
	r.kafka, r.redis = nil, errors.New("redis gone")
	if code, body := call("/v1/tasks/" + id); code != 503 || !strings.Contains(body, "Redis") {
		t.Errorf("%d %s", code, body)
	}
	r.redis = nil
	r.exec(`delete from perdure.relay_log`)
	r.exec(`delete from perdure.outbox`)
	if code, body := call("/v1/tasks/" + id); code != 410 {
		t.Errorf("%d %s", code, body)
	}
}

func TestCommittedOffsetsOfKafka(t *testing.T) {
	k := testkit.Kafka(t)
	names := kafka.Names{Prefix: k.Prefix}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopics(t.Context(), 2, 1, nil, names.Tasks("q")); err != nil {
		t.Fatal(err)
	}
	o := KafkaOffsets{Admin: adm}
	if at, err := o.Committed(t.Context(), names.WorkerGroup("q"), names.Tasks("q"), 1); err != nil || at > 0 {
		t.Errorf("a group that never was: %d %v", at, err)
	}
	var offs kadm.Offsets
	offs.Add(kadm.Offset{Topic: names.Tasks("q"), Partition: 1, At: 42})
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { // a new topic is known to its brokers one by one
		err := adm.CommitAllOffsets(t.Context(), names.WorkerGroup("q"), offs)
		return err == nil, fmt.Sprint(err)
	})
	if at, err := o.Committed(t.Context(), names.WorkerGroup("q"), names.Tasks("q"), 1); err != nil || at != 42 {
		t.Errorf("%d %v, want 42", at, err)
	}
	if at, err := o.Committed(t.Context(), names.WorkerGroup("q"), names.Tasks("none"), 1); err != nil || at != -1 {
		t.Errorf("a topic that never was: %d %v", at, err)
	}
}
