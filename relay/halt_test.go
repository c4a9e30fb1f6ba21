package relay

// After a restore, a failover, on a standby: the relay halts, says why, and
// leaves everything as it was.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestRelayHalts(t *testing.T) {
	t.Parallel()
	control := func(g *rig, change func(*relayed)) {
		v := relayed{Generation: 1, Seq: 1, SystemID: one[string](g, `select system_identifier::text from pg_control_system()`)}
		change(&v)
		b, err := json.Marshal(v)
		if err != nil {
			g.t.Fatal(err)
		}
		g.produce(&kgo.Record{Topic: g.names.Control(), Key: []byte("relayed/main"), Value: b})
	}
	for _, c := range []struct {
		name   string
		reason HaltReason
		change func(*rig)
	}{
		{"cursor of another cluster", HaltSystem, func(g *rig) { g.exec(`update perdure.relay_cursor set system_id = '7'`) }},
		{"cursor of another database", HaltDatabase, func(g *rig) { g.exec(`update perdure.relay_cursor set database = 7`) }},
		{"promoted since", HaltTimeline, func(g *rig) { g.exec(`update perdure.relay_cursor set timeline = '0000002A'`) }},
		{"transactions went back", HaltSnapshot, func(g *rig) { g.exec(`update perdure.relay_cursor set prev = '999999999:999999999:'`) }},
		{"transactions went back in a large window", HaltSnapshot, func(g *rig) {
			g.exec(`update perdure.relay_cursor set upto = '999999999:999999999:', at_id = 1`)
		}},
		{"source of another name", HaltSource, func(g *rig) { g.exec(`update perdure.source set source = 'other'`) }},
		{"Kafka has later ids", HaltSequence, func(g *rig) { control(g, func(v *relayed) { v.Seq = 1000 }) }},
		{"Kafka has a later generation", HaltGeneration, func(g *rig) { control(g, func(v *relayed) { v.Generation = 2 }) }},
		{"Kafka has the source from another cluster", HaltSource, func(g *rig) { control(g, func(v *relayed) { v.SystemID = "7" }) }},
		{"Kafka's value is not ours", HaltSequence, func(g *rig) {
			g.produce(&kgo.Record{Topic: g.names.Control(), Key: []byte("relayed/main"), Value: []byte("{")})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			first := g.run(g.relay("a", nil))
			g.enqueue("k", 1)
			g.drained(10 * time.Second)
			if err := first.stop(); err != nil {
				t.Fatal(err)
			}
			g.enqueue("k", 2)
			if err := g.examine(); err != nil {
				t.Fatalf("nothing is changed yet: %v", err)
			}
			c.change(g)
			before := one[string](g, `select (prev::text, upto::text, at_id)::text from perdure.relay_cursor`)
			var seen *HaltError
			if err := g.examine(); !errors.As(err, &seen) {
				t.Errorf("an examination finds %v", err)
			}
			r := g.relay("b", nil)
			err := g.run(r).wait()
			var h *HaltError
			if errors.As(err, &h) && seen != nil && seen.Error() != h.Error() {
				t.Errorf("an examination finds %q, the relay halts with %q", seen, h)
			}
			if !errors.As(err, &h) || h.Reason != c.reason {
				t.Fatalf("got %v, want a halt with reason %s", err, c.reason)
			}
			if h.Found == "" || h.Mend == "" || !strings.Contains(err.Error(), h.Mend) {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if s := r.Status(); s.State != StateHalted || s.Ready() == nil {
				t.Errorf("status is %+v", s)
			}
			if after := one[string](g, `select (prev::text, upto::text, at_id)::text from perdure.relay_cursor`); after != before {
				t.Errorf("the cursor was %s, is %s", before, after)
			}
			if n := len(g.sent()); n != 1 {
				t.Errorf("%d records on Kafka, want 1", n)
			}
			if held := one[bool](g, `select coalesce(bool_or(until > clock_timestamp()), false) from perdure.relay_lease`); held {
				t.Error("the halted relay keeps the lease")
			}
		})
	}
}

// A later generation comes only from a reset, which has moved the sequence.
func TestAResetSourceMayBeOfAnotherCluster(t *testing.T) {
	is := identity{systemID: "new", source: "main", generation: 2, sequence: 100}
	if err := checkControl(is, &relayed{Generation: 1, Seq: 100, SystemID: "old"}, 0); err != nil {
		t.Error(err)
	}
	if err := checkControl(is, nil, 101); !isHalt(err) {
		t.Errorf("this process saw id 101 acknowledged, the sequence is at 100: %v", err)
	}
}

func TestControlIsWrittenAtTheLatestWhenTheRelayStops(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	run := g.run(g.relay("a", nil))
	g.enqueue("k", 1)
	g.drained(10 * time.Second)
	last := int64(0)
	for n := range 20 {
		last = g.enqueue("k", 2+n)
	}
	g.drained(10 * time.Second)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	recs := g.records(10*time.Second, func(r []*kgo.Record) bool {
		return len(r) > 0 && strings.Contains(string(r[len(r)-1].Value), fmt.Sprintf(`"seq":%d,`, last))
	}, g.names.Control())
	if string(recs[0].Key) != "relayed/main" {
		t.Errorf("key %q", recs[0].Key)
	}
	if len(recs) > 5 {
		t.Errorf("%d control records for 21 tasks in a moment", len(recs))
	}
}

func TestRelayWaitsForServersAndSaysWhich(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", nil)
	r.deps.Kafka = []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1"), kgo.DialTimeout(100 * time.Millisecond)}
	run := g.run(r)
	testkit.Eventually(t, 60*time.Second, func() (bool, string) {
		s := r.Status()
		return s.State == StateWaiting && s.Ready() != nil && strings.Contains(s.Err.Error(), "kafka"), fmt.Sprintf("%+v", s)
	})
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}

// produce writes records and waits.
func (g *rig) produce(records ...*kgo.Record) {
	g.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.Brokers...))
	if err != nil {
		g.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		g.t.Fatal(err)
	}
}
