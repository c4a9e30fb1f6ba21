package replayer

// A replay stops where workers tell of an open breaker, and goes where they do not.

import (
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// breaker has a worker tell of a kind's breaker, so long ago.
func (r *rig) breaker(kind, worker string, closed bool, ago time.Duration) {
	r.t.Helper()
	what, data := "waiting", map[string]any{"reason": "breaker", "kind": kind}
	if closed {
		what, data = "breaker_closed", map[string]any{"kind": kind}
	}
	r.exec(`insert into perdure.events (topic, partition, "offset", task_id, epoch, attempt, run, type, at, worker, error_class, message, data)
select 'events.payments', 0, count(*), 'main-9-1', 0, 1, 1, $1, clock_timestamp() - $2::interval, $3, 'HTTP 404', 'no such path', $4 from perdure.events`, what, ago, worker, data)
}

func TestAReplayStopsAtAnOpenBreaker(t *testing.T) {
	r, n := newRig(t), 0
	for name, c := range map[string]struct {
		events func(*rig)
		stop   Stop
		stops  bool
	}{
		"open":             {func(r *rig) { r.breaker("idem", "w1", false, time.Second) }, Stop{}, true},
		"of another kind":  {func(r *rig) { r.breaker("fence", "w1", false, time.Second) }, Stop{}, false},
		"told of long ago": {func(r *rig) { r.breaker("idem", "w1", false, 3*time.Minute) }, Stop{}, false},
		"closed since": {func(r *rig) {
			r.breaker("idem", "w1", false, 2*time.Second)
			r.breaker("idem", "w1", true, time.Second)
		}, Stop{}, false},
		"open again": {func(r *rig) {
			r.breaker("idem", "w1", true, 2*time.Second)
			r.breaker("idem", "w1", false, time.Second)
		}, Stop{}, true},
		"closed at another worker": {func(r *rig) {
			r.breaker("idem", "w1", false, 2*time.Second)
			r.breaker("idem", "w0", true, time.Second)
		}, Stop{}, true},
		"not asked for": {func(r *rig) { r.breaker("idem", "w1", false, time.Second) }, Stop{IgnoreBreaker: true}, false},
		"no rules":      {func(r *rig) { r.breaker("idem", "w1", false, time.Second) }, Stop{Off: true}, false},
	} {
		r.exec(`delete from perdure.events`)
		r.letters(n+1, n+10, nil)
		c.events(r)
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Stop: c.stop}, Start: true})
		x := r.replayer("a", &known{})
		x.deps.Catalog.Kinds["idem"].Dependency = "bank-api"
		r.run(x)
		j, left := r.get(id), r.count(`with d as (delete from perdure.dead_letters where state = 'open' returning 1) select count(*) from d`)
		switch {
		case !c.stops && (j.State != Done || j.Replayed != 10):
			t.Errorf("%s: %+v", name, j)
		case c.stops && (j.State != Stopped || j.Replayed != 0 || left != 10 ||
			!strings.Contains(j.Note, "breaker open: of kind idem (bank-api), told by worker w1 at ") || !strings.Contains(j.Note, "HTTP 404: no such path")):
			t.Errorf("%s: %d letters are open, %+v", name, left, j)
		}
		n += 10
	}
}

// What is refused anyway is stopped by no breaker.
func TestAnOpenBreakerOfLettersThatDoNotGoStopsNothing(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	r.letters(6, 10, func(t *schemas.Task) { t.Kind, t.Deadline = "fence", time.Now().Add(-time.Hour) })
	r.breaker("fence", "w1", false, time.Second)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(r.replayer("a", &known{}))
	if j := r.get(id); j.State != Done || j.Replayed != 5 || j.Refused != 5 {
		t.Errorf("%+v", j)
	}
}

// Its tasks wait at the breaker, and use no attempts: no outcome would ever come.
func TestACanaryThatWaitsAtAnOpenBreakerStops(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Letters: 4}}, Start: true})
	r.breaker("fence", "w1", false, time.Second)
	r.start(r.replayer("a", &known{}))
	testkit.Eventually(t, time.Minute, func() (bool, string) { return r.get(id).Replayed == 4, "the canary has not gone" })
	if n := r.count(`select count(*) from perdure.replays where state = 'canary' and due_at > clock_timestamp() - interval '1 minute'`); n != 1 {
		t.Fatal("it does not wait for its canary")
	}
	r.breaker("idem", "w1", false, 0)
	if j := r.until(id, Stopped); j.Replayed != 4 || !strings.HasPrefix(j.Note, "breaker open: of kind idem, told by") {
		t.Errorf("%+v", j)
	}
}
