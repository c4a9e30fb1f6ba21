package claims

// Explicit-state exploration: every order of events, breadth first.

import (
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// result of an exploration.
type result struct {
	states, edges int
	over          int // states where all is acknowledged
	bad           badState
	trace         []string
}

// explore visits every state of m, or stops at the first violation.
func (m *model) explore(limit int) result { return m.exploreTo(limit, -1) }

// exploreTo also describes state number want.
func (m *model) exploreTo(limit int, want int32) result {
	var (
		res     result
		index   = map[[2]uint64]int32{}
		parents []int32
		froms   []int32 // edges, for the search backwards
		tos     []int32
		goal    []int32
		queue   []world
		buf     []byte
	)
	visit := func(w world, parent int32) int32 {
		w.tidy(m)
		key := w.fingerprint(buf)
		if i, ok := index[key]; ok {
			return i
		}
		i := int32(len(parents))
		index[key] = i
		parents = append(parents, parent)
		m.check(&w)
		if w.bad != fine && res.bad == fine {
			res.bad = w.bad
			res.trace = m.trace(parents, i, w)
		}
		if w.over() && w.terminal() {
			goal = append(goal, i)
		}
		if i == want {
			res.trace = m.trace(parents, i, w)
		}
		queue = append(queue, w)
		return i
	}
	buf = make([]byte, 0, 256)
	visit(m.start(), -1)
	for at := int32(0); len(queue) > 0 && res.bad == fine; at++ {
		w := queue[0]
		queue = queue[1:]
		m.next(&w, func(n world) {
			froms, tos = append(froms, at), append(tos, visit(n, at))
		})
		if len(parents) > limit {
			res.bad = badBound
		}
	}
	res.states, res.edges, res.over = len(parents), len(froms), len(goal)
	if res.bad == fine && want < 0 {
		if at := stuck(len(parents), froms, tos, goal); at >= 0 {
			res.bad = badStuck
			res.trace = m.exploreTo(limit, int32(at)).trace
		}
	}
	return res
}

// stuck finds a state from which no goal can be reached, or -1.
func stuck(n int, froms, tos, goal []int32) int {
	into := make([]int32, n+1) // edges by target, counted then placed
	for _, t := range tos {
		into[t+1]++
	}
	for i := range n {
		into[i+1] += into[i]
	}
	source, fill := make([]int32, len(tos)), append([]int32(nil), into[:n]...)
	for i, t := range tos {
		source[fill[t]] = froms[i]
		fill[t]++
	}
	seen, todo := make([]bool, n), append([]int32(nil), goal...)
	for _, g := range goal {
		seen[g] = true
	}
	for len(todo) > 0 {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, f := range source[into[t]:into[t+1]] {
			if !seen[f] {
				seen[f] = true
				todo = append(todo, f)
			}
		}
	}
	for i, ok := range seen {
		if !ok {
			return i
		}
	}
	return -1
}

// trace tells the way to a state, by walking its path from the start again.
func (m *model) trace(parents []int32, last int32, end world) []string {
	var path []int32
	for i := last; i >= 0; i = parents[i] {
		path = append(path, i)
	}
	return []string{fmt.Sprintf("%d events", len(path)-1), fmt.Sprintf("%+v", end)}
}

// The bounds of the protocol's page, and the rows that it only argued.
var explorations = []struct {
	name string
	m    model
}{
	{"the protocol's bounds", model{width: 1, from: budget{kills: 2, dups: 1, replays: 1, losses: 1, silences: 1}}},
	{"once", model{once: true, width: 1, from: budget{kills: 2, dups: 1, losses: 1, silences: 1}}},
	{"many records in hand", model{width: maxHandlers, gap: true, from: budget{kills: 1, dups: 1, losses: 1, silences: 1}}},
	{"many records in hand, replay", model{width: maxHandlers, gap: true, from: budget{kills: 1, replays: 1, losses: 1}}},
	{"cancel, hand-back, abandon", model{width: 1, from: budget{kills: 1, dups: 1, losses: 1, cancels: 1, handBacks: 1, abandons: 1}}},
	{"cancel, hand-back, abandon, replay", model{width: 1, from: budget{kills: 1, replays: 1, cancels: 1, handBacks: 1, abandons: 1}}},
	{"two crashes and a hand-back", model{width: 1, from: budget{kills: 2, replays: 1, handBacks: 1}}},
	{"a failover that lost the last write", model{width: 2, from: budget{kills: 1, losses: 1, dups: 1, failovers: 1}}},
	{"shared", model{shared: true, width: 1, from: budget{kills: 2, copies: 1}}},
	{"shared, silence", model{shared: true, width: 1, from: budget{kills: 1, silences: 1, copies: 2}}},
	{"shared, relay duplicate", model{shared: true, width: 1, from: budget{kills: 1, dups: 1, copies: 1}}},
	{"shared, replay", model{shared: true, width: 1, from: budget{kills: 1, replays: 1, copies: 1}}},
	{"shared, once", model{shared: true, once: true, width: 1, from: budget{kills: 1, silences: 1, copies: 1}}},
	{"shared, hand-back and cancel", model{shared: true, width: 1, from: budget{kills: 1, handBacks: 1, cancels: 1, copies: 1}}},
	{"shared, two in hand", model{shared: true, width: 2, from: budget{kills: 1, copies: 1}}},
	{"shared, a failover that lost the last write", model{shared: true, width: 1, from: budget{kills: 1, failovers: 1, copies: 1}}},
	{"elsewhere", model{width: 1, from: budget{kills: 1, dups: 1, losses: 1, outs: 1, looks: 1}}},
	{"elsewhere, silences and two of them", model{width: 1, from: budget{kills: 1, silences: 1, outs: 2, looks: 1}}},
	{"elsewhere, once", model{once: true, width: 1, from: budget{kills: 1, dups: 1, losses: 1, outs: 1, looks: 1}}},
	{"elsewhere, cancel, hand-back, replay", model{width: 1, from: budget{kills: 1, cancels: 1, handBacks: 1, replays: 1, outs: 1, looks: 1}}},
	{"elsewhere, shared", model{shared: true, width: 1, from: budget{kills: 1, outs: 1}}},
	{"elsewhere, a failover that lost the last write", model{width: 1, from: budget{kills: 1, failovers: 1, outs: 1, looks: 1}}},
	{"a failover and a replay", model{width: 1, from: budget{kills: 1, losses: 1, replays: 1, failovers: 1}}},
}

// withoutRace skips an exploration, which is one goroutine that -race makes ten
// times slower.
func withoutRace(t *testing.T) {
	t.Helper()
	if testkit.Race {
		t.Skip("explored without the race detector: make test does")
	}
}

func TestModelHolds(t *testing.T) {
	withoutRace(t)
	for _, x := range explorations {
		t.Run(x.name, func(t *testing.T) {
			begin := time.Now()
			r := x.m.explore(8_000_000)
			t.Logf("%d states, %d transitions, %d ends, %v", r.states, r.edges, r.over, time.Since(begin).Round(time.Millisecond))
			if r.bad != fine {
				t.Fatalf("%s\n%s", badNames[r.bad], r.trace)
			}
		})
	}
}
