package dlq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "where-jq" {
		jqMain()
		return
	}
	testkit.Main(m)
}

// rig is an index with its servers.
type rig struct {
	t     *testing.T
	db    *pgxpool.Pool
	names kafka.Names
	deps  Deps
	cl    *kgo.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pool, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	k := testkit.Kafka(t)
	r := &rig{t: t, db: pool, names: kafka.Names{Prefix: k.Prefix}}
	seeds := []kgo.Opt{kgo.SeedBrokers(k.Brokers...)}
	r.cl, err = kgo.NewClient(append(seeds, kgo.ProducerBatchMaxBytes(2<<20), kgo.UnknownTopicRetries(-1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.cl.Close)
	adm := kadm.NewClient(r.cl)
	size := "2097152"
	if _, err := adm.CreateTopics(t.Context(), 2, 1, map[string]*string{"max.message.bytes": &size}, r.names.DLQ("payments"), r.names.Events("payments")); err != nil {
		t.Fatal(err)
	}
	r.deps = Deps{DB: pool, Kafka: seeds, Names: r.names, Log: testkit.Logger(t),
		Catalog: testCatalog()}
	return r
}

// start runs an index until stop is called, or the test ends.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	x, err := NewIndex(Config{PruneEvery: time.Hour}, r.deps)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) produce(topic string, recs ...*kgo.Record) {
	r.t.Helper()
	for _, rec := range recs {
		rec.Topic = topic
	}
	if err := r.cl.ProduceSync(r.t.Context(), recs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) eventually(want int, sql string, args ...any) {
	r.t.Helper()
	testkit.Eventually(r.t, 30*time.Second, func() (bool, string) {
		n := r.count(sql, args...)
		return n == want, fmt.Sprintf("%s: %d, want %d", sql, n, want)
	})
}

func letterOf(taskID string, epoch int) *Letter {
	t := &schemas.Task{ID: taskID, Kind: "refund.issue", Payload: []byte(`{"a":1}`), Epoch: epoch, Time: time.Unix(1e9, 0), Headers: map[string]string{"x-user": "u"}}
	l := From(&kgo.Record{Topic: "tasks.payments", Offset: int64(epoch), Key: []byte(t.RecordKey()), Value: t.Payload,
		Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t)}, "g")
	l.Reason, l.ErrorClass, l.Message, l.DiedAt = schemas.ReasonPermanent, "HTTP 422", "refused 17", time.Now()
	l.Attempts = []Attempt{{N: 1, Message: "refused 17"}}
	return l
}

func TestIndexKeepsOneRowALetterAndWhatPeopleDid(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	topic := r.names.DLQ("payments")
	// Same death twice; a task that died again; one resolved before its letter comes again.
	r.produce(topic, Encode(letterOf("main-1-1", 0)), Encode(letterOf("main-1-1", 0)),
		Encode(letterOf("main-1-2", 0)), Encode(letterOf("main-1-2", 1)),
		Encode(letterOf("main-1-3", 0)), Resolved("main-1-3", "main-1-3", 1, time.Now()), Encode(letterOf("main-1-3", 0)),
		Resolved("main-1-4", "main-1-4", 1, time.Now()), Encode(letterOf("main-1-4", 0)),
		Encode(letterOf("main-1-5", 0)), Encode(letterOf("main-1-6", 0)))
	r.eventually(7, `select count(*) from perdure.dead_letters`)
	r.eventually(4, `select count(*) from perdure.dead_letters where state = 'open'`)
	if n := r.count(`select count(*) from perdure.dead_letters where letter in ('main-1-3@0', 'main-1-4@0') and state = 'resolved' and resolved_by = 'completed'`); n != 2 {
		t.Errorf("%d of 2 completed tasks' letters are resolved", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where letter = 'main-1-2@0' and state = 'resolved' and resolved_by = 'replay'`); n != 1 {
		t.Error("a task that died again has two open letters")
	}
	if _, err := r.db.Exec(t.Context(), `update perdure.dead_letters set state = case letter when 'main-1-5@0' then 'held' else 'discarded' end where letter in ('main-1-5@0', 'main-1-6@0')`); err != nil {
		t.Fatal(err)
	}
	stop()
	// Read everything again, as after a lost commit.
	adm := kadm.NewClient(r.cl)
	testkit.Eventually(t, 20*time.Second, func() (bool, string) {
		_, err := adm.DeleteGroup(context.Background(), r.names.IndexGroup("main"))
		return err == nil, fmt.Sprint(err)
	})
	r.start()
	r.produce(topic, Encode(letterOf("main-1-7", 0)))
	r.eventually(1, `select count(*) from perdure.dead_letters where letter = 'main-1-7@0'`)
	r.eventually(8, `select count(*) from perdure.dead_letters`)
	if n := r.count(`select count(*) from perdure.dead_letters where (letter, state) in (('main-1-5@0', 'held'), ('main-1-6@0', 'discarded'), ('main-1-3@0', 'resolved'), ('main-1-2@0', 'resolved'))`); n != 4 {
		t.Errorf("reading again changed %d of 4 states", 4-n)
	}
	var payload []byte
	var headers string
	if err := r.db.QueryRow(t.Context(), `select payload, headers::text from perdure.dead_letters where letter = 'main-1-1@0'`).Scan(&payload, &headers); err != nil {
		t.Fatal(err)
	}
	hs, err := DecodeHeaders([]byte(headers))
	task, derr := schemas.DecodeRecord([]byte("main-1-1"), payload, hs)
	if err != nil || derr != nil || task.ID != "main-1-1" || task.Headers["x-user"] != "u" {
		t.Errorf("the original cannot be made again: %+v %v %v", task, err, derr)
	}
}

func TestGarbageOnADeadLetterTopicIsVisibleAndStallsNothing(t *testing.T) {
	r := newRig(t)
	r.start()
	bad := letterOf("main-1-8", 0)
	bad.Value, bad.Key = []byte{0, 0xff}, []byte{0, 0xfe}
	bad.Headers = append(bad.Headers, kgo.RecordHeader{Key: "\xff\x00", Value: []byte{0}})
	bad.Message, bad.Kind = "nul \x00 and \xff", "x\x00"
	bad.Attempts[0].Message = "\x00"
	tomb := From(&kgo.Record{Topic: "tasks.payments", Partition: 1, Offset: 9}, "g")
	tomb.Reason = schemas.ReasonUndecodable
	old := Encode(letterOf("main-1-9", 0))
	old.Timestamp = time.UnixMilli(1 << 50)
	wild := Encode(letterOf("main-1-10", 0)) // what our own encoder would never write
	for i := range wild.Headers {
		if wild.Headers[i].Key == schemas.HeaderAttempts {
			wild.Headers[i].Value = []byte(`[{"n":1,"message":"\u0000\ud800"}]`)
		}
		if wild.Headers[i].Key == headerOffset {
			wild.Headers[i].Value = []byte("not a number")
		}
	}
	r.produce(r.names.DLQ("payments"), &kgo.Record{}, &kgo.Record{Key: []byte("k"), Value: []byte("v")},
		&kgo.Record{Headers: []kgo.RecordHeader{text("perdure_record", "resolved"), text("ce_id", "nobody")}},
		taskRecordFor("main-1-11"), Encode(bad), Encode(tomb), old, wild, Encode(letterOf("main-1-12", 0)))
	r.eventually(9, `select count(*) from perdure.dead_letters`)
	if n := r.count(`select count(*) from perdure.dead_letters where error_class = 'dlq.stray' and state = 'open' and task_id is null and letter like 'kafka:%'`); n != 5 {
		t.Errorf("%d strays, want 5", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where letter = 'kafka:tasks.payments:1:9' and payload is null`); n != 1 {
		t.Error("the tombstone did not stay one")
	}
	// Events: garbage is skipped, JSON that jsonb refuses loses its data.
	ev := EncodeEvent(&Event{TaskID: "main-1-1", Attempt: 1, Type: EventFailed, At: time.Now(), Data: []byte(`{"a":"\u0000"}`)})
	big := EncodeEvent(&Event{TaskID: "main-1-1", Attempt: 2, Type: EventFailed, At: time.Now(), Data: []byte(`{"a":1e999999}`)})
	good := EncodeEvent(&Event{TaskID: "main-1-1", Attempt: 3, Type: EventResult, At: time.Now(), Data: []byte(`{"ok":true}`)})
	r.produce(r.names.Events("payments"), &kgo.Record{Value: []byte("x")}, &kgo.Record{}, ev, big, good)
	r.eventually(3, `select count(*) from perdure.events where task_id = 'main-1-1'`)
	if n := r.count(`select count(*) from perdure.events where data is not null`); n != 1 {
		t.Errorf("%d events with data, want the good one", n)
	}
}

func taskRecordFor(id string) *kgo.Record {
	t := &schemas.Task{ID: id, Kind: "k", Payload: []byte("{}")}
	return &kgo.Record{Key: []byte(id), Value: t.Payload, Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t)}
}

// While Postgres refuses, nothing is committed; afterwards everything arrives.
func TestIndexWaitsForPostgres(t *testing.T) {
	r := newRig(t)
	if _, err := r.db.Exec(t.Context(), `alter table perdure.letters rename to away`); err != nil {
		t.Fatal(err)
	}
	r.start()
	recs := make([]*kgo.Record, 50)
	for i := range recs {
		recs[i] = Encode(letterOf(fmt.Sprintf("main-1-%d", i+1), 0))
	}
	r.produce(r.names.DLQ("payments"), recs...)
	adm := kadm.NewClient(r.cl)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		d, err := adm.DescribeGroups(t.Context(), r.names.IndexGroup("main"))
		return err == nil && d[r.names.IndexGroup("main")].State == "Stable", fmt.Sprint(d, err)
	})
	offs, err := adm.FetchOffsets(t.Context(), r.names.IndexGroup("main"))
	if err != nil {
		t.Fatal(err)
	}
	offs.Each(func(o kadm.OffsetResponse) {
		if o.At > 0 {
			t.Errorf("%s/%d is committed at %d while Postgres has nothing", o.Topic, o.Partition, o.At)
		}
	})
	if _, err := r.db.Exec(t.Context(), `alter table perdure.away rename to letters`); err != nil {
		t.Fatal(err)
	}
	r.eventually(50, `select count(*) from perdure.dead_letters`)
}

// Any order of the same records, in any batches, repeated, ends the same.
func TestOrderOfRecordsDoesNotMatter(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 40 {
		died, done := fmt.Sprintf("main-1-%d", 2*round+1), fmt.Sprintf("main-1-%d", 2*round+2)
		recs := []*kgo.Record{Encode(letterOf(died, 0)), Encode(letterOf(died, 1)), Encode(letterOf(died, 2)),
			Encode(letterOf(done, 0)), Encode(letterOf(done, 1)), Resolved(done, done, 2, time.Now()), Resolved(done, done, 0, time.Now())}
		recs = append(recs, recs...)
		rand.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
		for _, rec := range recs {
			rec.Topic = r.names.DLQ("payments")
		}
		for len(recs) > 0 {
			n := 1 + rand.IntN(len(recs))
			if err := x.store(t.Context(), x.rows(recs[:n])); err != nil {
				t.Fatal(err)
			}
			recs = recs[n:]
		}
		if n := r.count(`select count(*) from perdure.dead_letters where (letter, state, resolved_by) in (($1, 'resolved', 'replay'), ($2, 'resolved', 'replay'), ($3, 'open', ''))`,
			LetterID(died, 0), LetterID(died, 1), LetterID(died, 2)); n != 3 {
			t.Fatalf("round %d: of a task that died three times %d of 3 letters are right", round, n)
		}
		if n := r.count(`select count(*) from perdure.dead_letters where task_id = $1 and state = 'resolved'`, done); n != 2 {
			t.Fatalf("round %d: of a completed task %d of 2 letters are resolved", round, n)
		}
	}
}

func TestPruneNeverTakesAnUnfinishedLetter(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{History: time.Hour}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	b := x.rows(nil)
	for i, state := range []string{"open", "held", "replaying", "resolved", "discarded", "resolved"} {
		b.letters = append(b.letters, row(letterOf(fmt.Sprintf("main-1-%d", i+1), 0), "payments", &kgo.Record{Topic: "d"}))
		b.letters[i].Message = state
	}
	b.resolved = []Resolution{{"main-1-5", 0, false, time.Now().Add(-1000 * time.Hour)}, {"main-1-99", 0, false, time.Now().Add(-1000 * time.Hour)}}
	b.events = []eventRow{{&Event{TaskID: "main-1-1", Type: "a", At: time.Now().Add(-2 * time.Hour)}, &kgo.Record{Topic: "e", Offset: 1}},
		{&Event{TaskID: "main-1-1", Type: "b", At: time.Now()}, &kgo.Record{Topic: "e", Offset: 2}}}
	if err := x.store(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `update perdure.dead_letters set state = message, changed_at = now() - case letter when 'main-1-6@0' then interval '1 minute' else interval '400 days' end`); err != nil {
		t.Fatal(err)
	}
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where letter in ('main-1-1@0', 'main-1-2@0', 'main-1-3@0', 'main-1-6@0')`); n != 4 {
		t.Errorf("%d of 4 letters are left that are unfinished or young", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters`); n != 4 {
		t.Errorf("%d letters, want 4", n)
	}
	if n := r.count(`select count(*) from perdure.events`); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	if n := r.count(`select count(*) from perdure.resolutions`); n != 0 {
		t.Errorf("%d resolutions, want 0: their letters are gone", n)
	}
}

// Who has locked a letter comes to its state, as one who reads it through the view for
// update does: pruning takes both or neither, and waits for nobody.
func TestPruneWaitsForNoLetter(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{History: time.Hour}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	b := x.rows(nil)
	for i := range 3 {
		b.letters = append(b.letters, row(letterOf(fmt.Sprintf("main-1-%d", i+1), 0), "payments", &kgo.Record{Topic: "d"}))
	}
	if err := x.store(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `update perdure.dead_letters set state = 'resolved', changed_at = now() - interval '400 days'`); err != nil {
		t.Fatal(err)
	}
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // after a commit it does nothing
	if _, err := tx.Exec(t.Context(), `select from perdure.letters where letter = 'main-1-2@0' for update`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := x.pruneOnce(ctx); err != nil {
		t.Fatalf("pruning beside one that holds a letter: %v", err)
	}
	if _, err := tx.Exec(t.Context(), `select from perdure.letter_states where letter = 'main-1-2@0' for update nowait`); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters`); n != 1 {
		t.Errorf("%d letters are left, want the one that is held", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters`); n != 0 {
		t.Errorf("%d letters are left", n)
	}
}

func TestLettersAndGroupsOverHTTP(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	var recs []*kgo.Record
	for i := range 25 {
		l := letterOf(fmt.Sprintf("main-1-%d", i+1), 0)
		l.DiedAt = time.Unix(1e9+int64(i/2), 0)
		l.Message = fmt.Sprintf("refused %d", i)
		if i >= 20 {
			l.ErrorClass = "HTTP 500"
		}
		recs = append(recs, Encode(l))
	}
	stray := &kgo.Record{Offset: 7, Value: []byte("\xff")}
	for _, rec := range append(recs, stray) {
		rec.Topic = r.names.DLQ("payments")
	}
	if err := x.store(t.Context(), x.rows(append(recs, stray))); err != nil {
		t.Fatal(err)
	}
	letters := NewLetters(r.db)
	seen := map[string]bool{}
	for cursor, pages := "", 0; ; pages++ {
		list, next, err := letters.List(t.Context(), Filter{Kind: "refund.issue"}, cursor, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if seen[e.Letter] {
				t.Errorf("%s is on two pages", e.Letter)
			}
			seen[e.Letter] = true
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(seen) != 25 {
		t.Errorf("%d letters on all pages, want 25", len(seen))
	}
	groups, err := letters.Groups(t.Context(), Filter{Kind: "refund.issue"}, 10)
	if err != nil || len(groups) != 2 || groups[0].Letters != 20 || groups[0].States["open"] != 20 || groups[0].Sample.Message != "refused 19" {
		t.Errorf("groups: %+v %v", groups, err)
	}
	mux := http.NewServeMux()
	a := api.New(mux, "test", nil, testkit.Logger(t))
	letters.Routes(a)
	for path, want := range map[string]string{
		"/v1/dead-letters?limit=3&state=open&queue=payments&reason=permanent&since=2001-01-01T00:00:00Z": `"next":`,
		"/v1/dead-letters/main-1-3@0":                                "\"payload\":{\"a\":1}",
		"/v1/dead-letters/main-1-3":                                  `"letter":"main-1-3@0"`,
		"/v1/dead-letters/kafka:" + r.names.DLQ("payments") + ":0:7": `"payload_base64":"/w=="`,
		"/v1/dead-letters/nobody":                                    "urn:perdure:problem:no-such-letter",
		"/v1/dead-letters?cursor=x!":                                 "#/query/cursor",
		"/v1/failure-groups":                                         `"letters":20`,
		"/v1/failure-groups/" + groups[0].Group:                      `"open":20`,
		"/v1/failure-groups/fp1:00":                                  "no-such-group",
	} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil)
		a.ServeHTTP(w, req)
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body.String(), want)
		}
	}
	e, err := letters.Get(t.Context(), "main-1-3@0")
	if err != nil {
		t.Fatal(err)
	}
	if v := view(e, false); v.Payload != nil || v.Headers != nil || !v.Hidden {
		t.Error("a token without read-payload sees the payload")
	}
	if _, err := letters.Get(t.Context(), "x"); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	if _, err := letters.Group(t.Context(), ""); !errors.Is(err, ErrNoGroup) {
		t.Error(err)
	}
}

func testCatalog() *schemas.Catalog {
	return &schemas.Catalog{Queues: map[string]*schemas.Queue{"payments": {Name: "payments", DLQRetention: time.Hour}}}
}
