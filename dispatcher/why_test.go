package dispatcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

const whyCatalog = `
version: 1
queues: {q: {partitions: 4}, go: {}}
dependencies: {bank-api: {}}
kinds:
  k: {queue: q, timeout: 20s, retry: {max_attempts: 4}, dependency: bank-api, executor: {http: {url: "http://127.0.0.1:9/run"}}}
  line: {queue: q, order: key, executor: {http: {url: "http://127.0.0.1:9/run?token=hush"}}}
  mine: {queue: go}
`

// whyRig is a history on a real database, with servers that answer as a test wants.
type whyRig struct {
	*historyRig
	*Explainer
	group   GroupFacts
	members int // of every other group
	outbox  OutboxFacts
	halt    string
	beats   bool
	away    error // of Kafka
}

func (r *whyRig) Group(context.Context, string, string, int32) (GroupFacts, error) {
	return r.group, r.away
}
func (r *whyRig) Members(context.Context, string) (int, error) { return r.members, r.away }

func newWhyRig(t *testing.T) *whyRig {
	t.Helper()
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte(whyCatalog), fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	r := &whyRig{historyRig: newHistoryRig(t), beats: true, members: 1,
		group:  GroupFacts{Members: 2, Holder: "w1", State: "Stable", Committed: 10, End: 60},
		outbox: OutboxFacts{Owner: "r1", Alive: true, Fence: 3, MovedAt: time.Now().Add(-time.Minute), Until: time.Now().Add(5 * time.Second), Parked: map[string]int64{"q": 3}}}
	r.Explainer, err = NewExplainer(r.History, WhyDeps{
		Catalog: cat, Groups: r,
		Life:   func(context.Context, string) (bool, error) { return r.beats, nil },
		Outbox: func(context.Context) (OutboxFacts, error) { return r.outbox, nil },
		Halted: func(context.Context) (string, error) { return r.halt, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// task accepts one and lets it be so old.
func (r *whyRig) task(kind, key string, age time.Duration) (seq int64, id string) {
	r.t.Helper()
	queue := "q"
	if kind == "mine" {
		queue = "go"
	}
	if err := r.db.QueryRow(r.t.Context(), `insert into perdure.outbox (kind, queue, key, payload, created_at)
values ($1, $2, nullif($3, ''), '{"card":"4111"}', clock_timestamp() - $4::interval) returning id`, kind, queue, key, age.String()).Scan(&seq); err != nil {
		r.t.Fatal(err)
	}
	return seq, fmt.Sprintf("main-1-%d", seq)
}

// move files a row as the relay would.
func (r *whyRig) move(seq int64, table, columns, values string) {
	r.t.Helper()
	r.exec(fmt.Sprintf(`insert into perdure.%s (%s, id, generation, epoch, created_at, kind, queue, content_type, payload, checked)
select %s, id, generation, epoch, created_at, kind, queue, content_type, payload, checked from perdure.outbox where id = %d`, table, columns, values, seq))
}

// says asks and holds the answer against what must stand in it.
func (r *whyRig) says(id string, state schemas.State, cause Cause, command string, words ...string) *Why {
	r.t.Helper()
	w, err := r.Explain(r.t.Context(), id)
	if err != nil {
		r.t.Errorf("%s: %v", id, err)
		return &Why{}
	}
	r.t.Logf("%s %s.  next: %s", w.TaskID, w.Why, w.Command)
	if w.TaskID != id || w.State != state || w.Cause != cause || w.Command != command {
		r.t.Errorf("%s is %s by %s, next %q; want %s by %s, next %q\n%s", id, w.State, w.Cause, w.Command, state, cause, command, w.Why)
	}
	for _, word := range words {
		if ok, err := regexp.MatchString(word, w.Why); err != nil || !ok {
			r.t.Errorf("%q is not in: %s", word, w.Why)
		}
	}
	text, err := json.Marshal(w)
	if err != nil {
		r.t.Error(err)
	}
	for _, never := range []string{"4111", "hush", `\n`, "0001-01-01", "%!"} {
		if strings.Contains(string(text), never) {
			r.t.Errorf("%s is in the answer: %s", never, text)
		}
	}
	return w
}

const clock = `\d\d:\d\d:\d\d UTC \(`

func TestWhyOfATaskThatIsNotInKafka(t *testing.T) {
	r := newWhyRig(t)
	_, id := r.task("k", "", 0)
	w := r.says(id, "queued", CauseRelayNext, "perdure tasks get "+id+" --wait 10s", `next pass since `+clock+`0\.\ds ago\)`, `relay r1 \(fence 3\)`)
	if w.Since == nil || w.Evidence["relay"] != "r1" {
		t.Errorf("%+v", w)
	}
	r.exec(`delete from perdure.outbox`)

	seq, id := r.task("k", "", time.Hour+90*time.Second)
	r.outbox.Backlog, r.outbox.Oldest = 41, 2*time.Hour
	r.says(id, "queued", CauseRelayBehind, "perdure outbox status", `1h2m ago`, `41 rows wait in all, the oldest for 2h0m`, `cursor moved last at `+clock+`1m0s ago`)
	r.away = errors.New("dial tcp: connection\nrefused")
	r.says(id, "queued", CauseKafkaAway, "perdure doctor", `Kafka does not answer.*connection refused`)
	r.away = nil
	r.outbox.Alive, r.outbox.Until = false, time.Now().Add(-3*time.Minute)
	w = r.says(id, "queued", CauseNoRelay, "perdure relay", `no relay runs: the lease of the last, r1, ended at `+clock+`3m0s ago`, `41 rows`)
	if w.Since == nil || !w.Since.Equal(r.outbox.Until) || w.Evidence["backlog"] != int64(41) {
		t.Errorf("%+v", w)
	}
	r.halt = "relay halted (timeline): the cursor is of timeline A: then run `perdure outbox reset`"
	r.says(id, "queued", CauseRelayHalted, "perdure outbox reset --dry-run", `would halt: \(timeline\): the cursor is of timeline A`)
	r.halt = "relay halted (standby): the server is a standby: point PERDURE_POSTGRES_DIRECT_URL at the primary"
	r.says(id, "queued", CauseRelayHalted, "perdure config", `standby`)
	r.halt, r.outbox.Owner = "", ""
	r.says(id, "queued", CauseNoRelay, "perdure relay", `no relay has ever run here`)
	r.outbox.Owner, r.outbox.Alive = "r1", true

	// The cursor has passed it, and it is nowhere.
	r.exec(`insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline) values ('main', 1, pg_current_snapshot(), '', 0, '')`)
	r.says(id, "queued", CauseNothing, "perdure outbox status", `nothing is known that holds it`)
	r.move(seq, "parked", "why", "'the topic does not exist: run `perdure topics plan`'")
	w = r.says(id, "queued", CauseParked, "perdure topics plan", `parked with 2 others of queue q since `+clock, `the topic does not exist`)
	if w.Evidence["parked"] != int64(3) {
		t.Errorf("%+v", w.Evidence)
	}
	r.exec(`update perdure.parked set why = 'TOPIC_AUTHORIZATION_FAILED: Topic authorization failed.'`)
	r.says(id, "queued", CauseParked, "perdure doctor", `TOPIC_AUTHORIZATION_FAILED`)
	r.exec(`update perdure.parked set why = 'MESSAGE_TOO_LARGE: too large'`)
	r.outbox.Alive = false
	r.says(id, "queued", CauseParked, "perdure topics plan", `no relay runs that would try again`)
	r.outbox.Alive = true
	r.move(seq, "held", "was", "'outbox'")
	r.says(id, "queued", CauseHeld, "perdure outbox status", fmt.Sprintf(`Kafka may have it already.*seq %d`, seq))
}

func TestWhyOfAScheduledTask(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.move(seq, "scheduled", "due", "clock_timestamp() + interval '90 minutes'")
	w := r.says(id, "scheduled", CauseScheduled, "perdure tasks get "+id, `scheduled for `, `UTC \(in 1h30m\)`)
	if w.Until == nil {
		t.Errorf("%+v", w)
	}
	r.outbox.Alive = false
	r.says(id, "scheduled", CauseScheduled, "perdure relay", `no relay runs now`)
	r.exec(`update perdure.scheduled set due = clock_timestamp() - interval '30 seconds', headers = '{"scheduled_for":"2026-01-02T03:00:00Z"}'`)
	r.says(id, "scheduled", CauseNoRelay, "perdure relay", `since it was due at .*30s ago`, `filed by its kind's schedule for 2026-01-02T03:00:00Z`)

	due := time.Now().Add(72 * time.Hour)
	_, id = r.accept(nil, 0, &due) // not filed yet
	r.outbox.Alive = true
	r.says(id, "scheduled", CauseScheduled, "perdure tasks get "+id, due.UTC().Format("2006-01-02 15:04:05")+` UTC \(in 3 days\)`)
}

func TestWhyOfATaskThatIsQueuedOnKafka(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	w := r.says(id, "queued", CauseBehind, "perdure queues ls", `tasks.q, partition 3, offset 17 since `+clock, `worker w1 has the partition, and at most 7 records are before it`)
	if w.Evidence["committed"] != int64(10) || w.Evidence["offset"] != int64(17) {
		t.Errorf("%+v", w.Evidence)
	}
	r.group.Committed = 17
	r.says(id, "queued", CauseNothing, "perdure queues ls", `is the next on`, `nothing is known here that holds it$`)
	r.group.Shared, r.group.Holder = true, ""
	r.says(id, "queued", CauseNothing, "perdure queues ls", `2 workers share the queue`)
	r.group.Shared, r.group.State = false, "PreparingRebalance"
	r.says(id, "queued", CauseUnassigned, "perdure queues ls", `none of the 2 workers of queue q has that partition now, their group is PreparingRebalance`)
	r.group.Members = 0
	w = r.says(id, "queued", CauseNoWorker, "perdure worker", `no worker runs queue q`)
	if w.Evidence["queue"] != "q" || w.Since == nil {
		t.Errorf("%+v", w)
	}
	other, mine := r.task("mine", "", time.Minute)
	r.relay(other, "tasks.go", 1)
	r.says(mine, "queued", CauseNoWorker, "perdure queues ls", `no worker runs queue go.*the handlers of mine`)
	r.group = GroupFacts{Members: 1, Holder: "w1", Committed: 17}

	// The kind's breaker: another task of it met it a moment ago; one of another kind says nothing.
	_, elsewhere := r.task("line", "", time.Minute)
	r.event(elsewhere, 9, "waiting", `{"reason":"breaker"}`, 0, 1, 7)
	r.says(id, "queued", CauseNothing, "perdure queues ls")
	_, other2 := r.task("k", "", time.Minute)
	r.event(other2, 1, "waiting", fmt.Sprintf(`{"reason":"breaker","next_at":%q}`, time.Now().Add(40*time.Second).Format(time.RFC3339)), 0, 1, 7)
	r.exec(`update perdure.events set error_class = 'HTTP 404', message = E'no such\npath'`)
	w = r.says(id, "queued", CauseBreaker, "perdure catalog explain k", `bank-api's breaker is open, a call failed at `+clock, `HTTP 404: no such path; next probe `, `\(in (39|40)s\)`)
	if w.Until == nil {
		t.Errorf("%+v", w)
	}
	r.exec(`update perdure.events set at = at - interval '1 hour'`)
	r.says(id, "queued", CauseNothing, "perdure queues ls")

	r.exec(`update perdure.outbox set deadline = clock_timestamp() - interval '5 minutes' where id = $1`, seq)
	r.says(id, "queued", CauseBehind, "perdure queues ls", `its deadline passed at .*5m0s ago`)
}

func TestWhyOfATaskBehindAnotherOfItsKey(t *testing.T) {
	r := newWhyRig(t)
	r.group.Committed = 0
	_, done := r.task("line", "acct", time.Hour)
	_, first := r.task("line", "acct", time.Hour)
	_, otherKey := r.task("line", "else", time.Hour)
	seq, id := r.task("line", "acct", time.Minute)
	r.relay(seq, "tasks.q", 17)
	r.set(done, claims.Claim{State: claims.Done})
	r.set(otherKey, claims.Claim{State: claims.Running, Owner: "w9/a/0"})
	r.says(id, "queued", CauseBehind, "perdure queues ls")
	r.set(first, claims.Claim{State: claims.Waiting, Attempt: 3, Due: time.Now().Add(time.Minute)})
	w := r.says(id, "queued", CauseEarlier, "perdure why "+first, first+` of the same key waits, not before `+clock)
	if w.Evidence["earlier"] != first {
		t.Errorf("%+v", w.Evidence)
	}
	r.set(first, claims.Claim{State: claims.Running, Owner: "w1/a/0"})
	r.says(id, "queued", CauseEarlier, "perdure why "+first, first+` of the same key runs on w1$`)
}

func TestWhyOfATaskThatRuns(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	get := "perdure tasks get " + id + " --wait 30s"
	r.set(id, claims.Claim{State: claims.Running, Attempt: 2, Run: 7, Owner: "w1/nonce/3"})
	w := r.says(id, "running", CauseRunning, get, `runs: on w1, attempt 2 of 4, since `+clock+`.* at the earliest`, `ended after 20s`)
	if w.Evidence["worker"] != "w1" || w.Since == nil {
		t.Errorf("%+v", w)
	}
	r.mu.Lock()
	r.heard = claims.Progress{Run: 7, At: time.Now().Add(-12 * time.Second), Value: []byte(`{"card":"4111"}`)}
	r.mu.Unlock()
	r.exec(`update perdure.outbox set deadline = clock_timestamp() + interval '1 hour'`)
	r.says(id, "running", CauseRunning, get, `last heard of at `+clock+`12s ago`, `its deadline is .*\(in 1h0m\)`)
	r.set(id, claims.Claim{State: claims.Running, Attempt: 2, Run: 7, Owner: "w1/nonce/3", Cancel: true, Crashes: 2})
	r.says(id, "running", CauseCancelling, get, `a cancel was asked for`, `2 workers went silent`)
	r.beats = false
	r.set(id, claims.Claim{State: claims.Running, Attempt: 2, Run: 7, Owner: "w1/nonce/3"})
	r.says(id, "running", CauseInDoubt, "perdure queues ls", `is in doubt: w1 ran attempt 2 of 4.* and is silent`)
	r.group.Members = 0
	r.says(id, "running", CauseInDoubt, "perdure worker", `no worker runs queue q now`)
}

func TestWhyOfATaskThatWaitsForARetry(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	at := claims.Coord{Topic: "tasks.q", Partition: 3, Offset: 17}
	history := []byte(fmt.Sprintf(`[{"n":1},{"cut":2},{"n":2,"end":%q,"error_class":"HTTP 503","message":"busy\nnow"}]`, time.Now().Add(-5*time.Second).Format(time.RFC3339Nano)))
	c := claims.Claim{State: claims.Waiting, Attempt: 3, Run: 7, Due: time.Now().Add(245 * time.Second), History: history, Coord: at}
	r.set(id, c)
	w := r.says(id, "retrying", CauseRetry, "perdure tasks get "+id, `waits for attempt 3 of 4 due at `+clock+`in 4m[45]s\): attempt 2 of 4 failed at .*5\.\ds ago\) with HTTP 503: busy now`)
	if w.Until == nil || w.Evidence["error_class"] != "HTTP 503" {
		t.Errorf("%+v", w)
	}
	// Past due, on a delay topic.
	c.Due = time.Now().Add(-time.Minute)
	r.set(id, c)
	r.says(id, "retrying", CauseBehind, "perdure queues ls", `was due at .*1m0s ago\)`, `on its way back to queue q.*2 workers run it`)
	r.members = 0
	r.says(id, "retrying", CauseNoRelay, "perdure relay", `no relay runs that moves retries back`)
	// At its record.
	c.AtRecord = true
	r.set(id, c)
	r.says(id, "retrying", CauseNothing, "perdure queues ls", `worker w1 has its record, and nothing is known here`)
	r.group.Members = 0
	r.says(id, "retrying", CauseNoWorker, "perdure worker", `was due at .*no worker runs queue q`)
	// Only events tell the failure.
	c.History, c.Due = nil, time.Now().Add(time.Minute)
	r.set(id, c)
	r.event(id, 1, "failed", `{}`, 0, 2, 7)
	r.exec(`update perdure.events set error_class = 'timeout', message = ''`)
	r.says(id, "retrying", CauseRetry, "perdure tasks get "+id, `with timeout$`)
}

func TestWhyOfATaskThatWaitsForSomethingElse(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	at := claims.Coord{Topic: "tasks.q", Partition: 3, Offset: 17}
	r.event(id, 1, "waiting", `{"reason":"breaker"}`, 0, 1, 7)
	r.exec(`update perdure.events set error_class = 'HTTP 401', message = 'who?', worker = 'w1'`)
	r.set(id, claims.Claim{State: claims.Waiting, Attempt: 1, Run: 7, Coord: at, Due: time.Now()})
	r.says(id, "waiting", CauseBreaker, "perdure catalog explain k", `^waits: bank-api's breaker is open, a call failed at .* with HTTP 401: who\?; probes follow at most a minute apart$`)
	r.exec(`update perdure.outbox set kind = 'line'`) // which has no dependency: its endpoint is named, without what is secret
	r.says(id, "waiting", CauseBreaker, "perdure catalog explain line", `^waits: 127.0.0.1:9/run's breaker is open`)
	r.exec(`update perdure.outbox set kind = 'k'`)
	r.exec(`update perdure.events set data = jsonb_build_object('reason', 'breaker', 'next_at', clock_timestamp() - interval '3 seconds')`)
	r.says(id, "waiting", CauseBreaker, "perdure catalog explain k", `a probe was due at .*, and no failure of it is told yet`)
	r.group.Members = 0
	r.says(id, "waiting", CauseNoWorker, "perdure worker", `no worker runs queue q`)
	r.group.Members = 2

	// Elsewhere.
	c := claims.Claim{State: claims.Waiting, Attempt: 2, Run: 7, Elsewhere: time.Minute, Due: time.Now().Add(time.Minute), Coord: at}
	r.exec(`update perdure.events set data = '{"reason":"external"}'`)
	r.set(id, c)
	get := "perdure tasks get " + id + " --wait 30s"
	r.says(id, "waiting", CauseExternal, get, `its work goes on elsewhere, attempt 1 of 4, handed on at `, `nothing was heard of it yet, and it may be silent until .*in (59|1m0)`, `POST /v1/tasks/`+id+`/outcome`)
	r.mu.Lock()
	r.heard = claims.Progress{Run: 7, At: time.Now().Add(-10 * time.Second)}
	r.mu.Unlock()
	r.says(id, "waiting", CauseExternal, get, `last heard of at .*10s ago\), and it may be silent until .*in (49|50)s`)
	r.mu.Lock()
	r.heard = claims.Progress{Run: 7, At: time.Now().Add(-5 * time.Minute)}
	r.mu.Unlock()
	r.says(id, "waiting", CauseBehind, "perdure queues ls", `its silence has been too long since .*4m0s ago`)

	// A kind that no worker knows goes round without a claim; its record is committed.
	r.committed = 50
	r.set(id, claims.Claim{})
	r.exec(`update perdure.events set data = '{"reason":"unknown_kind"}'`)
	w := r.says(id, "waiting", CauseUnknownKind, "perdure catalog explain k", `worker w1 did not know its kind k at `, `dies at .*\(in (59m|1h)`)
	if w.Until == nil || w.Since == nil {
		t.Errorf("%+v", w)
	}
	r.exec(`update perdure.outbox set kind = 'new.kind'`)
	r.says(id, "waiting", CauseUnknownKind, "perdure catalog explain", `the dispatcher's catalog does not have it either`)
}

func TestWhyOfADeadTask(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	r.set(id, claims.Claim{State: claims.Dead, Reason: "exhausted"})
	r.says(id, "dead", CauseNotIndexed, "perdure dlq ls --queue q", `is dead: exhausted; the index has not read its letter on dlq.q yet`)
	r.members = 0
	r.says(id, "dead", CauseNotIndexed, "perdure replayer", `no replayer runs`)
	r.letter(id, 0, "open", "")
	r.exec(`update perdure.dead_letters set message = 'gone', fingerprint = 'fp1:abc'`)
	show := "perdure dlq show " + id + "@0"
	w := r.says(id, "dead", CauseDead, show, `is dead since `+clock+`.*exhausted, HTTP 500: gone; it is the only open letter of group fp1:abc`)
	if w.Evidence["group"] != "fp1:abc" || w.Evidence["letter"] != id+"@0" {
		t.Errorf("%+v", w.Evidence)
	}
	_, other := r.task("k", "", time.Minute)
	r.letter(other, 0, "open", "")
	r.exec(`update perdure.dead_letters set fingerprint = 'fp1:abc'`)
	r.says(id, "dead", CauseDead, "perdure replay plan --group fp1:abc", `2 letters of group fp1:abc are open`)
	r.exec(`update perdure.dead_letters set fingerprint = 'x; rm -rf ''~'''`) // a handler may call it so
	r.says(id, "dead", CauseDead, `perdure replay plan --group 'x; rm -rf '\''~'\'''`)
	r.letter(id, 0, "held", "")
	r.says(id, "dead", CauseLetterHeld, show, `its letter is held`)
	r.letter(id, 0, "open", "")
	r.exec(`insert into perdure.replays (replay, state, selector, who, dry_run) values ('r-0', 'planned', '{}', 't', true)`)
	r.exec(`insert into perdure.replay_letters (replay, letter, n) values ('r-0', $1, 1)`, id+"@0")
	r.says(id, "dead", CauseDead, `perdure replay plan --group 'x; rm -rf '\''~'\'''`)
	r.exec(`insert into perdure.replays (replay, state, selector, who, note) values ('r-1', 'paused', '{}', 't', 'died again')`)
	r.exec(`insert into perdure.replay_letters (replay, letter, n) values ('r-1', $1, 1)`, id+"@0")
	r.says(id, "dead", CauseInPlan, "perdure replay resume r-1", `replay r-1 is to replay it, and is paused: died again`)
	for state, command := range map[string]string{"planned": "start", "approved": "start", "running": "status", "canary": "status"} {
		r.exec(`update perdure.replays set state = $1, note = ''`, state)
		r.says(id, "dead", CauseInPlan, "perdure replay "+command+" r-1", `and is `+state+`$`)
	}
	r.exec(`update perdure.replays set state = 'planned', approval = 'over 1000'`)
	r.says(id, "dead", CauseInPlan, "perdure replay approve r-1", `another person must approve it`)
	r.exec(`update perdure.replays set state = 'cancelled'`)
	r.letter(id, 0, "discarded", "discard")
	r.says(id, "discarded", CauseDiscarded, show, `is discarded since .*exhausted`)

	// Replayed, and its new row waits for the relay.
	r.letter(id, 0, "replaying", "")
	r.set(id, claims.Claim{State: claims.Dead})
	seq2, _ := r.accept(&id, 1, nil)
	r.exec(`update perdure.replay_letters set result = 'replayed', seq = $1, done_at = clock_timestamp()`, seq2)
	r.says(id, "queued", CauseRelayNext, "perdure tasks get "+id+" --wait 10s", `next pass`)
	r.exec(`update perdure.outbox set created_at = created_at - interval '1 minute' where id = $1`, seq2)
	r.outbox.Alive = false
	r.says(id, "queued", CauseNoRelay, "perdure relay")
	r.says(fmt.Sprintf("main-1-%d", seq2), StateUnknown, CauseReplayRow, "perdure why "+id, `went to a replay of `+id)
}

func TestWhyOfATaskThatIsOver(t *testing.T) {
	r := newWhyRig(t)
	seq, id := r.task("k", "", time.Minute)
	r.relay(seq, "tasks.q", 17)
	get := "perdure tasks get " + id
	r.set(id, claims.Claim{State: claims.Done})
	r.says(id, "completed", CauseCompleted, get, `^is completed; when is not recorded, it was relayed at `+clock)
	r.event(id, 1, "result", `{"card":"4111"}`, 0, 1, 7)
	w := r.says(id, "completed", CauseCompleted, get, `^is completed at `+clock, `a result of 16 bytes`)
	if w.Since == nil {
		t.Errorf("%+v", w)
	}
	r.set(id, claims.Claim{})
	r.committed = 50
	r.says(id, "completed", CauseCompleted, get, `as far as is left to see`)
	r.set(id, claims.Claim{State: claims.Cancelled})
	r.says(id, "cancelled", CauseCancelled, get, `^is cancelled and will not run$`)
	r.event(id, 2, "cancelled", `{}`, 0, 1, 7)
	r.says(id, "cancelled", CauseCancelled, get, `is cancelled since `+clock)
}

// A task that shares its row with others is found like any other.
func TestWhyOfATaskOfABundle(t *testing.T) {
	r := newWhyRig(t)
	r.group.Committed = 0
	r.exec(`select setval('perdure.outbox_id_seq', 103)`)
	r.exec(`insert into perdure.outbox (id, kind, queue, payload, ends, keys) values (100, 'line', 'q', '12345678', '{2,4,6,8}', '{acct,else,acct,acct}')`)
	for _, id := range []string{"main-1-100", "main-1-103"} {
		if v := r.want(id, "queued"); v.Kind != "line" || v.Queue != "q" {
			t.Errorf("%+v", v)
		}
		r.says(id, "queued", CauseRelayNext, "perdure tasks get "+id+" --wait 10s")
	}
	if v := r.want("main-1-101", "queued"); v.Key != "else" {
		t.Errorf("%+v", v)
	}
	r.says("main-1-104", StateUnknown, CauseNeverAccepted, "perdure outbox status")
	r.exec(`select setval('perdure.outbox_id_seq', 110)`)
	r.says("main-1-104", StateUnknown, CauseRolledBack, "perdure outbox status") // behind its last
	r.relay(103, "tasks.q", 17)
	r.set("main-1-101", claims.Claim{State: claims.Running, Owner: "w9/a/0"})
	r.says("main-1-103", "queued", CauseBehind, "perdure queues ls")
	r.set("main-1-102", claims.Claim{State: claims.Running, Owner: "w1/a/0"})
	r.says("main-1-103", "queued", CauseEarlier, "perdure why main-1-102")
	r.set("main-1-102", claims.Claim{State: claims.Done})
	r.event("main-1-101", 1, "waiting", `{"reason":"breaker","error_class":"HTTP 404"}`, 0, 1, 1)
	r.says("main-1-103", "queued", CauseBreaker, "perdure catalog explain line")
}

func TestWhyOfAnIdUnderWhichNothingIsKnown(t *testing.T) {
	r := newWhyRig(t)
	r.task("k", "", time.Minute)
	r.says("nonsense", StateUnknown, CauseNeverAccepted, "perdure why --help", `no task's id`)
	r.says("shop-1-7", StateUnknown, CauseOtherSource, "PERDURE_API_URL=http://DISPATCHER-OF-SHOP perdure why shop-1-7", `of source shop`)
	r.says("main-2-7", StateUnknown, CauseNeverAccepted, "perdure outbox status", `in its generation 1`)
	r.says("main-1-7", StateUnknown, CauseNeverAccepted, "perdure outbox status", `the highest that main has given out is main-1-1$`)
	r.exec(`select nextval('perdure.outbox_id_seq')`)
	r.says("main-1-2", StateUnknown, CauseRolledBack, "perdure outbox status", `rolled back`)
	r.outbox.Open = []OpenTransaction{{Name: "pid 1 (report)"}, {Name: "pid 7 (billing)", Since: time.Now().Add(-10 * time.Minute), Writes: true}}
	w := r.says("main-1-2", StateUnknown, CauseNotCommitted, "perdure outbox status", `pid 7 \(billing\) holds a transaction open since `+clock+`10m0s ago`)
	if w.Evidence["transaction"] != "pid 7 (billing)" {
		t.Errorf("%+v", w.Evidence)
	}
	r.exec(`delete from perdure.outbox`)
	r.says("main-1-1", StateUnknown, CauseHistoryGone, "perdure config", `older than PERDURE_HISTORY`)

	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	r.Routes(a)
	call := func(id string) (int, string) {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/v1/tasks/"+id+"/why", nil))
		return w.Code, w.Body.String()
	}
	_, id := r.task("k", "", time.Minute)
	for _, c := range []struct {
		id   string
		code int
		says string
	}{
		{id, 200, `"cause":"relay_behind"`},
		{"main-1-1", 410, `"urn:perdure:problem:history-gone"`},
		{"nonsense", 404, `"urn:perdure:problem:no-such-task"`},
		{"shop-1-7", 404, `"urn:perdure:problem:other-source"`},
	} {
		if code, body := call(c.id); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s", c.id, code, body)
		}
	}
	r.redis = errors.New("redis gone")
	if code, body := call(id); code != 503 || !strings.Contains(body, "Redis") {
		t.Errorf("%d %s", code, body)
	}
}

func TestWhatKafkaSaysOfAGroup(t *testing.T) {
	k := testkit.Kafka(t)
	names := kafka.Names{Prefix: k.Prefix}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	o := KafkaOffsets{Admin: kadm.NewClient(cl)}
	ask := func() GroupFacts {
		t.Helper()
		g, err := o.Group(t.Context(), names.WorkerGroup("q"), names.Tasks("q"), 1)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	if g := ask(); g.Members != 0 || g.Committed > 0 || g.End != 0 {
		t.Errorf("a topic that never was: %+v", g)
	}
	if _, err := o.Admin.CreateTopics(t.Context(), 2, 1, nil, names.Tasks("q")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() (bool, string) {
		err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: names.Tasks("q"), Key: []byte("a")}, &kgo.Record{Topic: names.Tasks("q"), Key: []byte("b")},
			&kgo.Record{Topic: names.Tasks("q"), Key: []byte("c")}, &kgo.Record{Topic: names.Tasks("q"), Key: []byte("d")}).FirstErr()
		return err == nil, fmt.Sprint(err)
	})
	if n, err := o.Members(t.Context(), names.RetryGroup()); err != nil || n != 0 {
		t.Errorf("a group that never was has %d members: %v", n, err)
	}
	worker, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.ConsumerGroup(names.WorkerGroup("q")), kgo.ConsumeTopics(names.Tasks("q")), kgo.InstanceID("w-7"))
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close()
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		g := ask()
		return g.Members == 1 && g.Holder == "w-7" && g.State == "Stable" && g.End > 0, fmt.Sprintf("%+v", g)
	})
	if n, err := o.Members(t.Context(), names.WorkerGroup("q")); err != nil || n != 1 {
		t.Errorf("%d members: %v", n, err)
	}
}
