package imports

import (
	"bytes"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/schemas"
)

// Whatever cannot be sent is refused by itself, with a reason; the others go.
func TestWhatCannotBeSentIsRefusedWithItsReason(t *testing.T) {
	r := newRig(t)
	compacted, tasks := r.prefix+"compacted", r.prefix+"tasks.mail"
	r.topic(compacted, 1, "cleanup.policy", "compact")
	r.topic(tasks, 1)
	r.produce(&kgo.Record{Topic: r.orders, Partition: 2, Key: []byte("k"), Value: []byte("0"), Headers: h("x", "y")})
	shared := func(topic string, offset int) *kgo.Record { return shared(topic, 2, offset) }
	own := dlq.Encode(&dlq.Letter{Key: []byte("k"), Value: []byte("v"), Headers: h("ce_id", "main-1-1"), Origin: dlq.Origin{Topic: r.orders}, Reason: schemas.ReasonPermanent})
	var want []Why
	add := func(why Why, rec *kgo.Record) {
		rec.Topic = r.dlt
		r.produce(rec)
		want = append(want, why)
	}
	add(Perdures, own)
	add(Perdures, &kgo.Record{Value: []byte("x"), Headers: spring(tasks, 0, 0)})
	add(Perdures, &kgo.Record{Value: []byte("x"), Headers: spring(r.prefix+"perdure.control", 0, 0)})
	add(Perdures, &kgo.Record{Value: []byte("x"), Headers: spring(r.prefix+"dlq.not-there", 0, 0)})
	add(Internal, &kgo.Record{Value: []byte("x"), Headers: spring("__consumer_offsets", 0, 0)})
	add(Internal, &kgo.Record{Value: []byte("x"), Headers: spring("__"+r.prefix+"none", 0, 0)})
	add(SameTopic, &kgo.Record{Value: []byte("x"), Headers: spring(r.dlt, 0, 0)})
	add(NoTopic, &kgo.Record{Value: []byte("x"), Headers: spring(r.prefix+"none", 0, 0)})
	add(NoTopic, &kgo.Record{Value: []byte("x"), Headers: spring("no/topic \x1b[31m", 0, 0)})
	add(NoOrigin, &kgo.Record{Value: []byte("x"), Headers: h("kafka_dlt-exception-message", "m")})
	add(NoOrigin, &kgo.Record{Value: []byte("of nobody")})
	add(UnknownForm, &kgo.Record{Value: []byte("x"), Headers: h("source-topic", r.orders, "error.message", "m")})
	add(Gone, shared(r.orders, 99))
	add(Gone, shared(r.orders+"-none", 0))
	add(TooLarge, &kgo.Record{Value: bytes.Repeat([]byte("large "), 300_000), Headers: spring(r.orders, 0, 0)})
	add(NoKey, &kgo.Record{Value: []byte("x"), Headers: spring(compacted, 0, 0)})
	add("", shared(r.orders, 0)) // read from its origin
	add("", &kgo.Record{Value: []byte("1"), Headers: spring(r.orders, 1, 0)})

	counts := map[Why]int64{}
	for _, why := range want {
		counts[why]++
	}
	delete(counts, "")
	counts[NoTopic]++ // of a shared letter the destination is asked for first
	counts[Gone]--
	for _, dry := range []bool{true, false} {
		o := r.order()
		o.DryRun = dry
		rep := r.run(o)
		if got := refused(rep); !maps.Equal(got, counts) || rep.Sent+rep.WouldSend != 2 || rep.Letters != int64(len(want)) {
			t.Errorf("dry %v: %+v\nwant %v", dry, rep, counts)
		}
		for _, x := range rep.Refused {
			if x.Detail == "" || !strings.HasPrefix(x.First, r.dlt+"/0/") {
				t.Errorf("%+v says too little", x)
			}
		}
	}
	got := r.read(r.orders)
	if len(got) != 3 || len(r.read(tasks)) != 0 || len(r.read(compacted)) != 0 {
		t.Fatalf("%d records in %s, want 1 and the 2 that were sent", len(got), r.orders)
	}
	if back := got[2]; string(back.Key) != "k" || string(back.Value) != "0" || back.Partition != 2 || len(back.Headers) != 2 || string(back.Headers[0].Value) != "y" {
		t.Errorf("the record that its letter did not hold came back as %+v", back)
	}
	if n := r.count(`select count(*) from perdure.imported`); n != 2 {
		t.Errorf("%d rows, want the 2 that were sent", n)
	}

	// A person says where, and those that said nothing go too.
	o := r.order()
	o.To = r.prefix + "anywhere"
	r.topic(o.To, 2, "max.message.bytes", "4194304")
	if rep := r.run(o); rep.Sent != int64(len(want))-2-1-2 || rep.Before != 2 || refused(rep)[Perdures] != 1 || refused(rep)[Gone] != 2 {
		t.Errorf("%+v", rep)
	}
	for topic, says := range map[string]string{
		tasks: "one of Perdure's own", "__consumer_offsets": "Kafka's own", r.dlt: "of dead letters itself", r.prefix + "none": "there is no topic", "": "",
	} {
		o.To = topic
		if _, err := r.imp.Run(t.Context(), o); says != "" && (!errors.Is(err, ErrDestination) || !strings.Contains(err.Error(), says)) {
			t.Errorf("--to %s: %v", topic, err)
		}
	}
	o = r.order()
	o.Topic += "-none"
	if rep, err := r.imp.Run(t.Context(), o); !errors.Is(err, foreign.ErrNoTopic) || rep.Sent != 0 {
		t.Errorf("of no topic: %v", err)
	}
}

func faked(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func login(user string) kgo.Opt {
	return kgo.SASL(plain.Auth{User: user, Pass: "secret"}.AsMechanism())
}

func may(topic string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
}

// guarded is a Kafka on which the user boss may do everything and ann what is given.
func guarded(t *testing.T, ann ...kfake.ACL) *kfake.Cluster {
	t.Helper()
	return faked(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "boss", "secret"),
		kfake.User("PLAIN", "ann", "secret", ann...))
}

// It is found out before anything is claimed.
func TestWithoutPermissionNothingIsClaimed(t *testing.T) {
	c := guarded(t, may("orders-dlt", kmsg.ACLOperationRead), may("orders", kmsg.ACLOperationRead))
	r := newRigAt(t, "", c.ListenAddrs(), login("boss"))
	r.topic("secret", 1)
	r.letters(0, 0, 3)
	r.produce(&kgo.Record{Topic: r.dlt, Value: []byte("x"), Headers: spring("secret", 0, 0)})
	ann := []kgo.Opt{kgo.SeedBrokers(r.brokers...), login("ann")}
	imp, _ := newImporter(t, r.url, ann, r.imp.cfg)
	rep, err := imp.Run(t.Context(), r.order())
	if err != nil || rep.Sent != 0 || refused(rep)[NoPermission] != 4 || !strings.Contains(rep.Refused[0].Detail, "may not write to topic orders") {
		t.Errorf("%+v, %v", rep, err)
	}
	o := r.order()
	o.To = "orders"
	if _, err := imp.Run(t.Context(), o); !errors.Is(err, ErrDestination) {
		t.Errorf("--to: %v", err)
	}
	if n := r.count(`select (select count(*) from perdure.imported) + (select count(*) from perdure.audit)`); n != 0 {
		t.Errorf("%d rows", n)
	}
	r.run(r.order()) // of one who may
	r.wantOnce(3)
}

// Kafka answers too late, with the records or without: the next import knows.
func TestWhatKafkaDidNotAnswerIsLookedFor(t *testing.T) {
	for name, tt := range map[string]struct {
		answer *kerr.Error
		want   Settled
	}{
		"it has them":     {kerr.RequestTimedOut, Settled{Found: 5}},
		"it has them not": {kerr.NotEnoughReplicas, Settled{NotSent: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			c := faked(t)
			r := newRigAt(t, "", c.ListenAddrs())
			r.letters(0, 0, 5)
			r.imp.cfg.Deliver = 300 * time.Millisecond
			f := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: r.orders, Err: tt.answer, Count: -1})
			rep, err := r.imp.Run(t.Context(), r.order())
			if !errors.Is(err, ErrInDoubt) || rep.InDoubt != 5 || rep.Sent != 0 || r.inState("sending") != 5 {
				t.Fatalf("%+v, %v", rep, err)
			}
			f.Remove()
			r.imp.cfg.Deliver = 15 * time.Second
			if rep := r.run(r.order()); rep.Settled != tt.want || rep.Sent+rep.Before != 5 {
				t.Errorf("%+v", rep)
			}
			r.wantOnce(5)
		})
	}
}

// A claim that took too long to make is not sent on: others may look for it already.
func TestALateClaimIsNotSentOn(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 3)
	r.imp.cfg.Deliver = 50 * time.Millisecond
	r.imp.step = func(s string) {
		if s == "claimed" {
			time.Sleep(60 * time.Millisecond) // is what is tested: a slow commit
		}
	}
	if rep, err := r.imp.Run(t.Context(), r.order()); !errors.Is(err, ErrInDoubt) || rep.InDoubt != 3 || len(r.read(r.orders)) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	r.imp.step, r.imp.cfg.Deliver = nil, 15*time.Second
	if rep := r.run(r.order()); rep.Settled.NotSent != 3 || rep.Sent != 3 {
		t.Errorf("%+v", rep)
	}
	r.wantOnce(3)
}

// A record that Kafka refuses for what it is holds up no other, and is not in doubt.
func TestARefusedRecordIsNotInDoubt(t *testing.T) {
	c := faked(t)
	r := newRigAt(t, "", c.ListenAddrs())
	r.letters(0, 0, 6)
	f := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: r.orders, Partitions: []int32{1}, Err: kerr.InvalidRecord, Count: -1})
	rep := r.run(r.order())
	if rep.Sent != 4 || refused(rep)[Rejected] != 2 || r.inState("sending") != 0 || r.count(`select count(*) from perdure.imported`) != 4 {
		t.Errorf("%+v", rep)
	}
	f.Remove()
	if rep := r.run(r.order()); rep.Sent != 2 || rep.Before != 4 {
		t.Errorf("%+v", rep)
	}
	r.wantOnce(6)
}
