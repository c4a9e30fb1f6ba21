package claims

// Every rule broken once: a checker that does not see it proves nothing.

import (
	"slices"
	"testing"
)

var mutations = map[mutation]string{
	ackSameCoordinate:   "R, owner beats, c = C: ack instead of park",
	sourceIsDuplicate:   "W, a < A, c = C: ack as a duplicate",
	waitWithoutCAS:      "W without compare-and-set",
	deadWithoutCAS:      "dead without compare-and-set",
	doneNotAbsorbing:    "done does not absorb",
	runNotRaised:        "in doubt: the same run again",
	staleEpochRuns:      "e < E runs",
	deadWithoutLetter:   "dead(E), e = E: ack without producing the letter again",
	crashesForgotten:    "crashes are not counted",
	silenceIgnoresBeat:  "an owner that beats counts as silent",
	onceRunsInDoubt:     "once: run again in doubt",
	handBackForgets:     "hand-back always to none",
	cancelledRuns:       "a cancelled task's record runs",
	handBackDropsCrash:  "hand-back of what was in doubt forgets the crash",
	newEpochKeepsCount:  "a replay begins with its past's crashes",
	parkForEver:         "a decision that a failover lost is waited for",
	neighboursCount:     "a crash beside others condemns",
	suspectsInCompany:   "a suspect runs beside others",
	sharedIsDuplicate:   "shared: R, owner beats, c ≠ C: ack as a duplicate",
	sharedIsStale:       "shared: W, a < A, c ≠ C: ack as a duplicate",
	timerIgnoresSigns:   "W elsewhere, heard of: run",
	onceRunsUnheard:     "once; W elsewhere, silent: run again",
	reportDropped:       "a report is forgotten by the grant that is to act on it",
	failureWithoutCAS:   "a failure is taken from a run that is not waited for",
	ackBeforeTimer:      "elsewhere: acknowledged before the record that sees after it is produced",
	copyAfterAck:        "shared: acknowledged before its copy is produced",
	ackBeforeRetry:      "acknowledged before the retry is produced",
	ackBeforeLetter:     "acknowledged before the letter is produced",
	ackBeforeDone:       "acknowledged before done is written",
	ackOfLostAssignment: "acks count after the partition moved",
	replayWithoutProof:  "replay without the claim's proof",
	noReassertion:       "nobody re-asserts after a failover",
}

func TestEveryMutationIsCaught(t *testing.T) {
	withoutRace(t)
	for mut := intact + 1; mut < lastMutation; mut++ {
		if mut == lastMutationOfSpec {
			continue
		}
		name := mutations[mut]
		if name == "" {
			t.Fatalf("mutation %d has no name", mut)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []int{20_000, 8_000_000} { // most are caught early, in one or another
				for _, x := range slices.Backward(explorations) { // the largest stand first
					shared := mut == sharedIsDuplicate || mut == sharedIsStale || mut == copyAfterAck
					if shared && !x.m.shared {
						continue
					}
					m := x.m
					m.mut = mut
					if r := m.explore(limit); r.bad != fine && r.bad != badBound {
						t.Logf("%s: %s, after %d states", x.name, badNames[r.bad], r.states)
						return
					}
				}
			}
			t.Fatal("not caught")
		})
	}
}
