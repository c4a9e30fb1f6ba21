package blocks

import (
	"fmt"
	"hash/maphash"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/testkit"
)

// result of an exploration.
type result struct {
	states  int
	ends    int
	blocked int // ends where a block still stands, that the next task of the key would end
	bad     badState
	trace   string
}

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func fingerprint(w *world) [2]uint64 {
	return [2]uint64{maphash.Comparable(seeds[0], *w), maphash.Comparable(seeds[1], *w)}
}

// explore visits every state that m can come to, breadth first, or stops at the
// first that is bad; then it looks for states from which no end can be reached.
func (m *model) explore(limit int) result {
	var (
		res   result
		index = map[[2]uint64]int32{}
		from  []int32
		names []string
		into  [][2]int32 // edges
		goals []int32
		queue []world
	)
	path := func(i int32) string {
		var steps []string
		for ; i > 0; i = from[i] {
			steps = append(steps, names[i])
		}
		for a, b := 0, len(steps)-1; a < b; a, b = a+1, b-1 {
			steps[a], steps[b] = steps[b], steps[a]
		}
		return strings.Join(steps, "\n")
	}
	visit := func(name string, w world, parent int32) int32 {
		w.tidy()
		key := fingerprint(&w)
		if i, ok := index[key]; ok {
			return i
		}
		i := int32(len(from))
		index[key] = i
		from, names = append(from, parent), append(names, name)
		if w.bad == badBound && m.prune {
			return i
		}
		if w.bad != fine && res.bad == fine {
			res.bad, res.trace = w.bad, path(i)+fmt.Sprintf("\n%+v", w)
		}
		if w.over() {
			goals = append(goals, i)
			if w.control != 0 {
				res.blocked++
			}
		}
		queue = append(queue, w)
		return i
	}
	visit("", m.start(), -1)
	for at := int32(0); len(queue) > 0 && res.bad == fine; at++ {
		w := queue[0]
		queue = queue[1:]
		m.next(&w, func(name string, n world) {
			into = append(into, [2]int32{at, visit(name, n, at)})
		})
		if len(from) > limit {
			res.bad = badBound
		}
	}
	res.states, res.ends = len(from), len(goals)
	if res.bad == fine {
		if at := stuck(len(from), into, goals); at >= 0 {
			res.bad, res.trace = badStuck, path(at)
		}
	}
	return res
}

// stuck finds a state from which no goal can be reached, or -1.
func stuck(n int, edges [][2]int32, goals []int32) int32 {
	first, next := make([]int32, n), make([]int32, len(edges))
	for i := range first {
		first[i] = -1
	}
	for i, e := range edges {
		next[i] = first[e[1]]
		first[e[1]] = int32(i)
	}
	seen := make([]bool, n)
	todo := append([]int32(nil), goals...)
	for _, g := range goals {
		seen[g] = true
	}
	for len(todo) > 0 {
		t := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for i := first[t]; i >= 0; i = next[i] {
			if f := edges[i][0]; !seen[f] {
				seen[f] = true
				todo = append(todo, f)
			}
		}
	}
	for i, ok := range seen {
		if !ok {
			return int32(i)
		}
	}
	return -1
}

// maxStates bounds an exploration; it needs about 1 KiB a state.
const maxStates = 12_000_000

// What is small enough for every run; soak_test.go has the rest.
var explorations = []budget{
	{deaths: 2},
	{deaths: 1, discards: 1, dups: 1},
	{deaths: 1, crashes: 1},
	{deaths: 1, giveUps: 2},
}

func TestModelHolds(t *testing.T) {
	if testkit.Race {
		t.Skip("too slow under -race, and of one goroutine: `make test` runs it without")
	}
	for _, b := range explorations {
		m := model{from: b}
		m.mustHold(t)
	}
}

func (m *model) mustHold(t *testing.T) {
	t.Helper()
	r := m.explore(maxStates)
	t.Logf("%+v: %d states, %d ends, %d of them with a block that stands", m.from, r.states, r.ends, r.blocked)
	if r.bad != fine {
		t.Errorf("%+v: %v:\n%s", m.from, r.bad, r.trace)
	}
	if r.ends == 0 {
		t.Errorf("%+v: no end was reached", m.from)
	}
	if m.from.crashes+m.from.zombies+m.from.losses+m.from.giveUps == 0 && r.blocked > 0 {
		t.Errorf("%+v: a block outlives its letter though nothing failed", m.from)
	}
}
