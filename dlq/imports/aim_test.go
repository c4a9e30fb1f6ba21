package imports

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq/foreign"
)

// shared is a letter of Kafka Connect or Streams that holds no record.
func shared(topic string, partition, offset int) *kgo.Record {
	return &kgo.Record{Headers: h("__dlq.errors.topic", topic, "__dlq.errors.partition", fmt.Sprint(partition), "__dlq.errors.offset", fmt.Sprint(offset), "__dlq.errors.message", "m")}
}

// Where a letter's record is read from is checked as where it goes, and one letter
// that cannot be read ends no run.
func TestWhatIsReadFromItsOriginIsCheckedToo(t *testing.T) {
	r := newRig(t)
	tasks, again := r.prefix+"tasks.mail", r.prefix+"again"
	r.topic(tasks, 1)
	r.topic(again, 1)
	r.produce(&kgo.Record{Topic: tasks, Value: []byte("a task")}, &kgo.Record{Topic: r.orders, Key: []byte("k"), Value: []byte("1")},
		&kgo.Record{Topic: r.orders, Value: []byte("of another Perdure"), Headers: h("perdure_epoch", "1")})
	for _, rec := range []*kgo.Record{
		shared("no/topic \x1b", 0, 0), shared(r.orders, 0, 99), shared(r.prefix+"none", 0, 0),
		shared(tasks, 0, 0), shared("__consumer_offsets", 0, 0), shared(r.dlt, 0, 0), shared(r.orders, 0, 1),
		{Value: []byte("x"), Headers: append(h("perdure_run", "3"), spring(r.orders, 0, 0)...)},
		{Value: []byte("2"), Headers: append(h("perdure_imported", "i-before "+r.dlt+"/0/0"), spring(r.orders, 0, 0)...)},
		shared(r.orders, 0, 0),
	} {
		rec.Topic = r.dlt
		r.produce(rec)
	}
	o := r.order()
	o.To = again
	rep := r.run(o)
	if got, want := refused(rep), map[Why]int64{Gone: 3, Perdures: 3, Internal: 1, SameTopic: 1}; !maps.Equal(got, want) || rep.Sent != 2 || rep.Again != 1 {
		t.Errorf("%+v, want %v", rep, want)
	}
	if got := r.read(again); len(got) != 2 || string(got[0].Value) != "2" || string(got[1].Value) != "1" {
		t.Errorf("%d records were sent", len(got))
	}
}

func TestAnOriginThatThisUserMayNotReadRefusesItsLetters(t *testing.T) {
	c := guarded(t, may("orders-dlt", kmsg.ACLOperationRead), may("orders", kmsg.ACLOperationWrite))
	r := newRigAt(t, "", c.ListenAddrs(), login("boss"))
	r.topic("hidden", 1)
	r.produce(&kgo.Record{Topic: "hidden", Value: []byte("x")}, &kgo.Record{Topic: r.orders, Value: []byte("x")})
	for _, topic := range []string{"hidden", "orders"} { // not seen; seen and not read
		rec := shared(topic, 0, 0)
		rec.Topic = r.dlt
		r.produce(rec)
	}
	r.letters(0, 0, 3)
	imp, _ := newImporter(t, r.url, []kgo.Opt{kgo.SeedBrokers(r.brokers...), login("ann")}, r.imp.cfg)
	o := r.order()
	o.To = "orders"
	if rep, err := imp.Run(t.Context(), o); err != nil || rep.Sent != 3 || refused(rep)[NoPermission] != 2 || len(rep.Refused) != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestOneTopicTooManyRefusesItsLetters(t *testing.T) {
	r := newRig(t)
	r.imp.cfg.topics = 2
	for i := range 3 {
		topic := fmt.Sprint(r.prefix, "t", i)
		r.topic(topic, 1)
		r.produce(&kgo.Record{Topic: r.dlt, Value: []byte("x"), Headers: spring(topic, 0, 0)})
	}
	for i := range 2 {
		r.produce(&kgo.Record{Topic: r.dlt, Value: []byte("x"), Headers: spring(fmt.Sprint(r.prefix, "t", i), 0, 0)})
	}
	if rep := r.run(r.order()); rep.Sent != 4 || refused(rep)[TooMany] != 1 {
		t.Errorf("%+v", rep)
	}
}

// Kafka refuses a whole batch for one of its records.
func TestARefusedRecordTakesNoNeighbourWithIt(t *testing.T) {
	r := newRig(t)
	compacted := r.prefix + "compacted"
	r.topic(compacted, 1, "cleanup.policy", "compact")
	var list []*letter
	for i := range 5 {
		rec := &kgo.Record{Topic: compacted, Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}
		if i == 2 {
			rec.Key = nil
		}
		list = append(list, &letter{Letter: foreign.Letter{}, rec: rec})
	}
	s, err := newSender(append(r.opts, kgo.ProducerLinger(100*time.Millisecond)), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.send(t.Context(), list, time.Now())
	for i, l := range list {
		if want := map[bool]Why{true: Rejected}[i == 2]; (l.result == nil) != (i != 2) || want != "" && refusedFor(l.result) != want {
			t.Errorf("%d: %v", i, l.result)
		}
	}
	var got string
	for _, rec := range r.read(compacted) {
		got += string(rec.Value)
	}
	if got != "0134" {
		t.Errorf("%q were sent", got)
	}
	if errors.Is(list[2].result, errLate) {
		t.Error("it is in doubt")
	}
}
