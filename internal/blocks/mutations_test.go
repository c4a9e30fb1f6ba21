package blocks

// Each rule of the protocol, broken on purpose: the exploration must notice.

import (
	"testing"

	"github.com/perdure/perdure/internal/testkit"
)

var mutations = []struct {
	name string
	m    model
	want badState
	soak bool // it takes longer than a run of every day may
}{
	{"a new owner does not read the blocks first", model{noCatchUp: true, from: budget{deaths: 1, crashes: 1}}, badOvertake, false},
	{"a death writes no block", model{noBlock: true, from: budget{deaths: 1}}, badOvertake, false},
	{"the record is acknowledged before the block stands", model{letterFirst: true, from: budget{deaths: 1, crashes: 1}}, badOvertake, false},
	{"the worker goes on at an ask", model{noHold: true, from: budget{deaths: 1}}, badOvertake, false},
	{"an ask is given up without a block", model{blindGiveUp: true, from: budget{deaths: 1, giveUps: 1}}, badOvertake, false},
	{"a lift does not wait for the worker's answer", model{noAnswer: true, prune: true, from: budget{deaths: 1}}, badOvertake, false},
	{"an answered lift does not look for letters that stand", model{liftStanding: true, from: budget{deaths: 1, crashes: 1, losses: 1}}, badOvertake, true},
	{"an ask does not wait for the commit below it", model{noBarrier: true, from: budget{deaths: 1, crashes: 1, losses: 1}}, badOvertake, true},
	{"a death of another owner is passed without a proof", model{noProof: true, from: budget{deaths: 1, zombies: 1, losses: 1}}, badOvertake, true},
	{"and without the blocks up to now", model{noSync: true, from: budget{deaths: 1, zombies: 1}}, badOvertake, true},
	{"an answer to a lift that is over gets no end", model{noSecondEnd: true, from: budget{deaths: 1, dups: 1}}, badStuck, false},
	{"nobody notices what is parked where nothing stands", model{noOrphans: true, from: budget{deaths: 1, zombies: 1, discards: 1}}, badStuck, true},
	{"an end is acknowledged before its ask", model{endFirst: true, noSecondEnd: true, from: budget{deaths: 1, crashes: 1}}, badStuck, false},
	{"a letter that is being replayed no longer stands", model{openOnly: true, from: budget{deaths: 2}}, badOvertake, false},
	{"what waited is released in another order", model{backwards: true, from: budget{deaths: 1}}, badOvertake, false},
}

func TestEveryMutationIsCaught(t *testing.T) {
	if testkit.Race {
		t.Skip("too slow under -race, and of one goroutine: `make test` runs it without")
	}
	for _, test := range mutations {
		if !test.soak {
			test.m.mustFail(t, test.name, test.want)
		}
	}
}

func (m *model) mustFail(t *testing.T, name string, want badState) {
	t.Helper()
	r := m.explore(maxStates)
	t.Logf("%s: %v after %d states", name, r.bad, r.states)
	if r.bad != want {
		t.Errorf("%s: %v after %d states, want: %v", name, r.bad, r.states, want)
	}
}
