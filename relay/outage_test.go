package relay

// Kafka goes away under a relay that has records under way.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// wire is the way to Kafka, which can be cut.
type wire struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

var errCut = errors.New("the wire is cut")

func (w *wire) dial(ctx context.Context, network, host string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, errCut
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err == nil {
		w.conns = append(w.conns, c)
	}
	return c, err
}

func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for _, c := range w.conns {
		c.Close() //nolint:errcheck // the point is that it breaks
	}
	w.conns = nil
}

// through makes a relay whose way to Kafka is w.
func (g *rig) through(w *wire, owner string, change func(*Config)) *Relay {
	r := g.relay(owner, change)
	r.deps.Kafka = append(r.deps.Kafka, kgo.Dialer(w.dial))
	return r
}

func TestKafkaOutageDelaysAndLosesNothing(t *testing.T) {
	g, w := newRig(t), &wire{}
	r := g.through(w, "a", func(c *Config) { c.Chunk = 40 })
	g.run(r)
	l := g.load(4, 11, func() string { return g.url })
	for range 3 {
		l.reach(l.done.Load() + 60)
		w.cut(true)
		testkit.Eventually(t, 20*time.Second, func() (bool, string) {
			s := r.Status()
			return s.State == StateWaiting && errors.Is(s.Err, errCut), fmt.Sprintf("state %s: %v", s.State, s.Err)
		})
		l.reach(l.done.Load() + 60) // producers notice nothing
		w.cut(false)
		testkit.Eventually(t, 20*time.Second, active(r))
	}
	w.cut(false) // connections break, and are there again at once
	l.end()
	g.settlePrepared(g.prepared())
	g.right()
	if n := one[int](g, `select count(*) from perdure.parked`); n != 0 {
		t.Errorf("%d rows were parked although all of Kafka was away", n)
	}
}

func TestRelayStopsInTimeWhileKafkaIsAway(t *testing.T) {
	t.Parallel()
	g, w := newRig(t), &wire{}
	r := g.through(w, "a", func(c *Config) { c.Grace = 300 * time.Millisecond })
	run := g.run(r)
	testkit.Eventually(t, 10*time.Second, active(r))
	w.cut(true)
	g.enqueue("k", 1)
	testkit.Eventually(t, 20*time.Second, func() (bool, string) { return r.Status().State == StateWaiting, "not waiting" })
	began := time.Now()
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
	g.run(g.relay("b", nil)) // the lease is free, the row is not lost
	g.right()
}
