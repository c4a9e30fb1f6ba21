package imports

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/audit"
	"github.com/perdure/perdure/internal/testkit"
)

func TestLettersGoBackAsTheyWereOnce(t *testing.T) {
	r := newRig(t)
	payments := r.prefix + "payments"
	r.topic(payments, 1)
	original := h("x-tenant", "acme", "x-raw", "\x00\xff", "x-tenant", "twice")
	r.produce(
		&kgo.Record{Topic: r.dlt, Key: []byte("\xff\x00"), Value: []byte("\x1b\x00\xff"), Headers: append(slices.Clone(original), spring(r.orders, 2, 7)...)},
		&kgo.Record{Topic: r.dlt, Key: []byte("gone"), Headers: spring(r.orders, 1, 8)},                                   // a tombstone
		&kgo.Record{Topic: r.dlt, Key: []byte{}, Value: []byte{}, Headers: append(h("a", ""), spring(r.orders, 0, 9)...)}, // empty, not nil
		&kgo.Record{Topic: r.dlt, Value: []byte("p"), Headers: h("__connect.errors.topic", payments, "__connect.errors.exception.message", "m", "b", "1")},
		&kgo.Record{Topic: r.dlt, Partition: 1, Value: []byte("9"), Headers: spring(r.orders, 99, 10)}, // of a partition that is not there
	)
	rep := r.run(r.order())
	if rep.Letters != 5 || rep.Sent != 5 || len(rep.Refused) != 0 || rep.Before != 0 || rep.Again != 0 || rep.More ||
		!reflect.DeepEqual(rep.To, []Destination{{r.orders, 4}, {payments, 1}}) {
		t.Errorf("%+v", rep)
	}
	got := map[string]*kgo.Record{}
	for _, rec := range append(r.read(r.orders), r.read(payments)...) {
		got[imported(rec)] = rec
	}
	want := func(at, topic string, partition int32, key, value []byte, headers []kgo.RecordHeader) {
		t.Helper()
		name := rep.Import + " " + r.dlt + at
		rec := got[name]
		if rec == nil {
			t.Fatalf("%s was not sent: %v", name, got)
		}
		headers = append(slices.Clone(headers), h("perdure_imported", name)...)
		if rec.Topic != topic || partition >= 0 && rec.Partition != partition || !reflect.DeepEqual(rec.Key, key) || !reflect.DeepEqual(rec.Value, value) || fmt.Sprint(rec.Headers) != fmt.Sprint(headers) {
			t.Errorf("%s: %+v, want %q %q %v in %s/%d", at, rec, key, value, headers, topic, partition)
		}
	}
	want("/0/0", r.orders, 2, []byte("\xff\x00"), []byte("\x1b\x00\xff"), original)
	want("/0/1", r.orders, 1, []byte("gone"), nil, nil)
	want("/0/2", r.orders, 0, []byte{}, []byte{}, h("a", ""))
	want("/0/3", payments, 0, nil, []byte("p"), h("b", "1"))
	want("/1/0", r.orders, -1, nil, []byte("9"), nil)
	if n := r.count(`select count(*) from perdure.imported where state = 'sent' and to_offset >= to_after and import = $1`, rep.Import); n != 5 {
		t.Errorf("%d of 5 letters are marked with their place", n)
	}

	// Once more, with one that died again and a new one.
	r.produce(
		&kgo.Record{Topic: r.dlt, Value: []byte("9"), Headers: append(h("perdure_imported", rep.Import+" "+r.dlt+"/0/0"), spring(r.orders, 2, 0)...)},
		&kgo.Record{Topic: r.dlt, Partition: 1, Value: []byte("8"), Headers: spring(r.orders, 0, 11)},
	)
	again := r.run(r.order())
	if again.Sent != 2 || again.Before != 5 || again.Again != 1 || again.Letters != 7 || again.Import == rep.Import {
		t.Errorf("again: %+v", again)
	}
	for _, rec := range r.read(r.orders) {
		n := 0
		for _, x := range rec.Headers {
			if x.Key == "perdure_imported" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v: it names %d letters, want 1", rec.Headers, n)
		}
	}
	if last := r.run(r.order()); last.Sent != 0 || last.Before != 7 || len(r.read(r.orders)) != 6 {
		t.Errorf("a third time: %+v, %d records", last, len(r.read(r.orders)))
	}
	n := r.count(`select count(*) from perdure.audit a, jsonb_each(details -> 'letters') p, jsonb_array_elements(p.value)
where what = 'import.send' and who = 'ann' and why = 'the shop is back' and details ->> 'topic' = $1`, r.dlt)
	if v, err := audit.New(r.db).Verify(t.Context()); n != 7 || err != nil || v.Broken != "" {
		t.Errorf("%d letters are in the audit, want 7; %+v, %v", n, v, err)
	}
}

func TestADryRunChangesNothing(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 10)
	r.letters(1, 10, 5)
	o := r.order()
	o.DryRun, o.Limit = true, 12
	rep := r.run(o)
	if rep.WouldSend != 12 || rep.Sent != 0 || rep.Import != "" || !rep.More || !reflect.DeepEqual(rep.To, []Destination{{r.orders, 12}}) {
		t.Errorf("%+v", rep)
	}
	if n := r.count(`select (select count(*) from perdure.imported) + (select count(*) from perdure.audit)`); n != 0 || len(r.read(r.orders)) != 0 {
		t.Errorf("a dry run left %d rows and %d records", n, len(r.read(r.orders)))
	}
	// What an import has under way is not looked for, nor waited for.
	r.end("sent", r.order())
	o.Limit = 0
	if rep := r.run(o); rep.InDoubt != 15 || rep.WouldSend != 0 || r.inState("sending") != 15 {
		t.Errorf("%+v", rep)
	}
}

func TestOnlyWhatWasChosenIsSent(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 4)
	other := r.prefix + "other"
	r.topic(other, 3)
	for n := 4; n < 8; n++ {
		r.produce(&kgo.Record{Topic: r.dlt, Key: fmt.Append(nil, "k", n), Value: fmt.Append(nil, n), Headers: spring(other, 0, n)})
	}
	l, _ := foreign.Read(&kgo.Record{Topic: r.dlt, Headers: spring(other, 0, 0)})
	for name, change := range map[string]func(*Order){
		"group":  func(o *Order) { o.Group = l.Fingerprint },
		"origin": func(o *Order) { o.Origins = []string{"x", other} },
		"since":  func(o *Order) { o.Since = time.Now().Add(time.Hour) },
	} {
		o := r.order()
		o.DryRun = true
		change(&o)
		want := int64(4)
		if name == "since" {
			want = 0
		}
		if rep := r.run(o); rep.WouldSend != want || rep.Letters != want {
			t.Errorf("%s: %+v", name, rep)
		}
	}
	// To another topic: by the key, as its own producer would.
	o := r.order()
	o.To, o.Group = r.orders, l.Fingerprint
	if rep := r.run(o); rep.Sent != 4 {
		t.Errorf("%+v", rep)
	}
	hashed, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.DefaultProduceTopic(r.orders), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer hashed.Close()
	for _, rec := range r.read(r.orders) {
		same := &kgo.Record{Key: rec.Key, Value: []byte("0")}
		if err := hashed.ProduceSync(t.Context(), same).FirstErr(); err != nil || same.Partition != rec.Partition {
			t.Errorf("key %s lies in partition %d, a producer takes %d (%v)", rec.Key, rec.Partition, same.Partition, err)
		}
	}
}

func TestAFewThenTheRestInTheirOrder(t *testing.T) {
	r := newRig(t)
	r.imp.cfg.Parcel = 7
	r.letters(0, 0, 60)
	o := r.order()
	o.Limit = 10
	if rep := r.run(o); rep.Sent != 10 || !rep.More {
		t.Errorf("%+v", rep)
	}
	o.Limit = 50
	if rep := r.run(o); rep.Sent != 50 || rep.Before != 10 {
		t.Errorf("%+v", rep)
	}
	r.wantOnce(60)
	last := map[int32]string{}
	for _, rec := range r.read(r.orders) {
		at := fmt.Sprintf("%04s", rec.Value)
		if at <= last[rec.Partition] {
			t.Errorf("%s came behind %s", at, last[rec.Partition])
		}
		last[rec.Partition] = at
	}
}

func TestTheRateHolds(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 40)
	o := r.order()
	o.Rate = 40
	began := time.Now()
	r.run(o) // the last parcel of 10 goes after 0.75 s
	if took := time.Since(began); took < 740*time.Millisecond {
		t.Errorf("40 letters took %s at 40 a second", took)
	}
	r.wantOnce(40)
}

// Ended by a signal, it leaves nothing in doubt.
func TestAStoppedImportGoesOn(t *testing.T) {
	r := newRig(t)
	r.imp.cfg.Parcel = 4
	r.letters(0, 0, 20)
	steps := []string{"claim", "claimed", "sent", "marked"}
	for i, step := range steps {
		ctx, cancel := context.WithCancel(t.Context())
		r.imp.step = func(s string) {
			if s == step {
				cancel()
			}
		}
		if rep, err := r.imp.Run(ctx, r.order()); !errors.Is(err, context.Canceled) || rep.Sent != 4 {
			t.Errorf("stopped at %s: %+v, %v", step, rep, err)
		}
		if r.inState("sent") != 4*(i+1) || r.inState("sending") != 0 {
			t.Errorf("stopped at %s: %d sent, %d in doubt", step, r.inState("sent"), r.inState("sending"))
		}
	}
	r.imp.step = nil
	r.run(r.order())
	r.wantOnce(20)
}

// What retention took is not sent and not remembered; a topic that was made anew
// has other letters at the same places.
func TestTruncatedAndRemadeTopics(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 10)
	o := r.order()
	o.Limit = 4
	r.run(o)
	r.deleteTo(r.dlt, 0, 6)
	r.letters(0, 10, 2)
	if rep := r.run(r.order()); rep.Sent != 6 || rep.Before != 0 || rep.Letters != 6 {
		t.Errorf("%+v", rep)
	}
	if n := r.count(`select count(*) from perdure.imported`); n != 6 {
		t.Errorf("%d rows, want those of the 6 letters that are there", n)
	}
	if times := r.each(r.orders, 12); !slices.Equal(times, []int{1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1}) {
		t.Errorf("sent: %v", times)
	}

	testkit.DeleteTopic(t, r.cl, r.dlt)
	r.imp, _ = newImporter(t, r.url, r.opts, r.imp.cfg) // as a new process
	made, err := kgo.NewClient(kgo.SeedBrokers(r.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	r.cl = made // one that does not know the old topic's id
	r.topic(r.dlt, 2)
	r.letters(0, 12, 10)
	if rep := r.run(r.order()); rep.Sent != 10 || rep.Before != 0 {
		t.Errorf("of the topic that was made anew: %+v", rep)
	}
	if n := r.count(`select count(*) from perdure.imported`); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}
