package balance

import (
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

func TestClassify(t *testing.T) {
	now := time.Now()
	rec := func(acked bool) *hop { return &hop{topic: "tasks.q", offset: 5, at: now, acked: acked} }
	old := &hop{topic: "tasks.q", offset: 5, at: now.Add(-time.Hour), acked: true}
	refused := &hop{topic: "dlq.q", offset: 5, at: now}
	at := func(offset int64) claims.Coord { return claims.Coord{Topic: "tasks.q", Offset: offset} }
	let := func(epoch int, s schemas.LetterState, by string) *letter { return &letter{"l", epoch, s, by} }
	for _, c := range []struct {
		name string
		task task
		lags bool // the index has not read all letters
		want class
		at   string
		inf  bool
	}{
		{"done", task{done: true}, false, completed, "", false},
		{"done, though its letter is open", task{claim: claims.Claim{State: claims.Done}, letter: let(0, "open", "")}, false, completed, "", false},
		{"cancelled", task{claim: claims.Claim{State: claims.Cancelled}}, false, cancelled, "", false},
		{"not relayed", task{}, false, waiting, "unrelayed", false},
		{"scheduled", task{passed: true, filed: "scheduled"}, false, waiting, "scheduled", false},
		{"parked", task{passed: true, filed: "parked"}, false, waiting, "parked", false},
		{"skipped by the relay", task{passed: true}, false, lost, "", false},
		{"queued", task{passed: true, hop: rec(false)}, false, waiting, "queued", false},
		{"acknowledged and nowhere", task{hop: rec(true)}, false, lost, "", false},
		{"forgotten by Redis", task{hop: old}, false, completed, "", true},
		{"running", task{hop: rec(false), claim: claims.Claim{State: claims.Running, Coord: at(5)}}, false, waiting, "running", false},
		{"running, its record acknowledged", task{hop: rec(true), claim: claims.Claim{State: claims.Running, Coord: at(1)}}, false, lost, "", false},
		{"running in a life of Redis before, its record acknowledged in it", task{hop: old, claim: claims.Claim{State: claims.Running, Coord: at(1), Stale: true}}, false, completed, "", true},
		{"running in a life of Redis before, its record acknowledged after it", task{hop: rec(true), claim: claims.Claim{State: claims.Running, Coord: at(1), Stale: true}}, false, lost, "", false},
		{"running in a life of Redis before, its record waits", task{hop: rec(false), claim: claims.Claim{State: claims.Running, Coord: at(5), Stale: true}}, false, waiting, "running", false},
		{"retrying", task{hop: rec(true), claim: claims.Claim{State: claims.Waiting, Coord: at(1)}}, false, waiting, "retrying", false},
		{"dead", task{hop: rec(true), claim: claims.Claim{State: claims.Dead}, letter: let(0, "open", "")}, false, dead, "", false},
		{"held", task{hop: rec(true), letter: let(0, "held", "")}, false, dead, "", false},
		{"dead, letter not indexed yet", task{hop: rec(true), claim: claims.Claim{State: claims.Dead, Coord: at(1)}}, true, dead, "", false},
		{"dead, letter never made", task{hop: rec(true), claim: claims.Claim{State: claims.Dead, Coord: at(1)}}, false, lost, "", false},
		{"dead, its record not acknowledged: the letter comes again", task{hop: rec(false), claim: claims.Claim{State: claims.Dead, Coord: at(5)}}, false, dead, "", false},
		{"dead at a retry, whose record is not acknowledged", task{hop: rec(true), claim: claims.Claim{State: claims.Dead, Coord: at(9)}}, false, dead, "", false},
		{"refused by the relay, not indexed yet", task{hop: refused}, true, dead, "", false},
		{"refused by the relay, letter missing", task{hop: refused}, false, lost, "", false},
		{"discarded", task{hop: rec(true), letter: let(0, "discarded", "discard")}, false, discarded, "", false},
		{"resolved, forgotten by Redis", task{hop: rec(true), letter: let(0, "resolved", "completed")}, false, completed, "", false},
		{"replayed, no row", task{hop: rec(true), letter: let(0, "replaying", "")}, false, lost, "", false},
		{"replayed, row not relayed", task{hop: rec(true), letter: let(0, "replaying", ""), replay: &replay{found: true}, claim: claims.Claim{State: claims.Dead}}, false, waiting, "unrelayed", false},
		{"replayed, row gone", task{hop: rec(true), letter: let(0, "replaying", ""), replay: &replay{}}, false, lost, "", false},
		{"replayed, queued", task{hop: rec(true), letter: let(0, "replaying", ""), replay: &replay{found: true, passed: true, hop: rec(false)}, claim: claims.Claim{State: claims.Dead}}, false, waiting, "queued", false},
		{"replayed, acknowledged, only the old death known", task{hop: rec(true), letter: let(0, "replaying", ""), replay: &replay{found: true, passed: true, hop: rec(true)}, claim: claims.Claim{State: claims.Dead}}, true, lost, "", false},
		{"replayed, running", task{letter: let(0, "replaying", ""), replay: &replay{hop: rec(false)}, claim: claims.Claim{State: claims.Running, Epoch: 1, Coord: at(5)}}, false, waiting, "running", false},
		{"replayed by a letter read just before, running", task{letter: let(0, "open", ""), claim: claims.Claim{State: claims.Running, Epoch: 1, Coord: at(5)}}, false, waiting, "running", false},
		{"replayed, dead again, letter not indexed yet", task{letter: let(0, "replaying", ""), replay: &replay{found: true, passed: true, hop: rec(true)}, claim: claims.Claim{State: claims.Dead, Epoch: 1, Coord: at(1)}}, true, dead, "", false},
		{"replayed, dead again", task{letter: let(1, "open", ""), claim: claims.Claim{State: claims.Dead, Epoch: 1}}, false, dead, "", false},
		{"a running claim that a letter outlived", task{letter: let(0, "open", ""), claim: claims.Claim{State: claims.Running, Coord: at(1)}}, false, dead, "", false},
	} {
		w := &world{began: now.Add(-time.Minute), letters: map[string]bool{"dlq.q": true}, dlqOf: map[string]string{"tasks.q": "dlq.q"},
			caught: func(string) bool { return !c.lags }, acked: func(_ string, _ int32, offset int64) bool { return offset < 5 }}
		got := classify(&c.task, w)
		if got.class != c.want || got.where != c.at || got.inferred != c.inf || (got.class == lost) != (got.why != "") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
