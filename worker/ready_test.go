package worker

// Whose turn it is: shares, limits, and what is kept for others.

import (
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

// line makes a kind with work.
func line(q *readyQueue, name, queue string, work, most int, dependency *limit) *kind {
	k := &kind{Kind: &schemas.Kind{Name: name, Queue: queue}, own: limit{most: most}, dependency: dependency}
	q.kinds = append(q.kinds, k)
	for range work {
		q.push(&delivery{kind: k}, false)
	}
	return k
}

func TestQueuesHaveSlotsByWeightAndTheirKindsEqually(t *testing.T) {
	q := &readyQueue{}
	heavy := line(q, "a", "heavy", 100, 0, nil)
	one, two := line(q, "b", "light", 100, 0, nil), line(q, "c", "light", 100, 0, nil)
	q.divide(12, map[string]int{"heavy": 2, "light": 1})
	if got := q.pop(12, time.Now(), nil); len(got) != 12 || heavy.own.busy != 8 || one.own.busy != 2 || two.own.busy != 2 {
		t.Errorf("%d slots: %d, %d, %d; want 8, 2, 2", len(got), heavy.own.busy, one.own.busy, two.own.busy)
	}
}

func TestAKindAloneLeavesHalfToTheOthers(t *testing.T) {
	q := &readyQueue{}
	slow, fast := line(q, "slow", "q", 100, 0, nil), line(q, "fast", "q", 0, 0, nil)
	q.divide(10, map[string]int{"q": 1})
	if q.pop(10, time.Now(), nil); slow.own.busy != 5 {
		t.Errorf("it took %d of 10", slow.own.busy)
	}
	for range 9 {
		q.push(&delivery{kind: fast}, false)
	}
	if q.pop(5, time.Now(), nil); fast.own.busy != 5 {
		t.Errorf("the other got %d of the 5 that were kept", fast.own.busy)
	}
	for range 5 {
		q.give(slow)
	}
	if q.owed != 5 {
		t.Errorf("%v slots are owed, want the slow one's 5", q.owed)
	}
}

// What hangs keeps its half, so that the rest is less than the others' shares: kinds
// that flood may not have it all among them. What is kept for others does not help here.
func TestTheKindWithTheLeastOfItsShareGoesFirst(t *testing.T) {
	q := &readyQueue{}
	hangs := line(q, "hangs", "q", 100, 0, nil)
	one, two, few := line(q, "one", "q", 0, 0, nil), line(q, "two", "q", 0, 0, nil), line(q, "few", "q", 0, 0, nil)
	q.divide(8, map[string]int{"q": 1})
	if q.pop(8, time.Now(), nil); hangs.own.busy != 4 {
		t.Fatalf("it took %d of 8", hangs.own.busy)
	}
	for range 100 {
		q.push(&delivery{kind: one}, false)
		q.push(&delivery{kind: two}, false)
	}
	q.push(&delivery{kind: few}, false)
	if q.pop(4, time.Now(), nil); one.own.busy+two.own.busy != 3 || few.own.busy != 1 {
		t.Errorf("of the 4 slots that are left %d, %d and %d are taken, want 3 and the last's 1", one.own.busy, two.own.busy, few.own.busy)
	}
}

func TestAKindThatIsTheOnlyOneHasAllSlots(t *testing.T) {
	q := &readyQueue{}
	k := line(q, "k", "q", 100, 0, nil)
	unknown := line(q, "unknown", "", 1, 0, nil)
	q.divide(10, map[string]int{"q": 1})
	if got := q.pop(10, time.Now(), nil); len(got) != 10 || k.own.busy != 9 || unknown.own.busy != 1 {
		t.Errorf("%d popped, %d and %d", len(got), k.own.busy, unknown.own.busy)
	}
}

func TestLimitsOfKindsAndDependencies(t *testing.T) {
	q := &readyQueue{}
	bank := &limit{most: 3}
	a, b := line(q, "a", "q", 9, 0, bank), line(q, "b", "q", 9, 2, bank)
	c := line(q, "c", "q", 9, 2, nil)
	q.divide(30, map[string]int{"q": 1})
	q.pop(30, time.Now(), nil)
	if bank.busy != 3 || a.own.busy+b.own.busy != 3 || b.own.busy > 2 || c.own.busy != 2 {
		t.Errorf("a %d, b %d, c %d, dependency %d", a.own.busy, b.own.busy, c.own.busy, bank.busy)
	}
	q.give(a)
	if got := q.pop(30, time.Now(), nil); len(got) != 1 || got[0].kind == c {
		t.Errorf("%d started for one slot that was given back", len(got))
	}
}

func TestAKindWhoseBreakerIsOpenStandsAside(t *testing.T) {
	q := &readyQueue{}
	now := time.Now()
	a, b := line(q, "a", "q", 9, 0, nil), line(q, "b", "q", 9, 0, nil)
	a.breaker = &breaker{until: now.Add(time.Second)}
	q.divide(4, map[string]int{"q": 1})
	if got := q.pop(4, now, nil); len(got) != 2 || b.own.busy != 2 {
		t.Errorf("%d started, %d of the healthy one", len(got), b.own.busy)
	}
	if got := q.pop(2, now.Add(2*time.Second), nil); len(got) != 1 || !got[0].probe {
		t.Errorf("%d started, want the one probe", len(got))
	}
}
