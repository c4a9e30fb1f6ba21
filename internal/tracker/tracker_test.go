package tracker

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var topic = [16]byte{1, 2, 3}

// failer is what testing.T and rapid.T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
}

func fresh(t failer, committed int64, metadata string) *Tracker {
	t.Helper()
	tr, err := New(committed, metadata, topic)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestAckOfALostAssignmentNeverCommits(t *testing.T) {
	tr := fresh(t, 10, "")
	tr.Deliver(10, 0)
	tr.Deliver(11, 0)
	tr.Ack(10)
	c, ok := tr.Revoke()
	if !ok || c.Offset != 11 {
		t.Fatalf("last commit = %+v, %v; want offset 11", c, ok)
	}
	if tr.Ack(11) {
		t.Error("an ack after the revoke was accepted")
	}
	if c, ok := tr.Commit(); ok {
		t.Errorf("a commit after the revoke: %+v", c)
	}
	if tr.Deliver(12, 0) {
		t.Error("a record was taken after the revoke")
	}
}

func TestCommitStandsBelowTheOldestRecordInFlight(t *testing.T) {
	tr := fresh(t, -1, "")
	for o := int64(5); o < 10; o++ {
		tr.Deliver(o, 3)
	}
	for _, o := range []int64{9, 6, 7} {
		if !tr.Ack(o) {
			t.Fatalf("ack of %d refused", o)
		}
	}
	c, ok := tr.Commit()
	if !ok || c.Offset != 5 {
		t.Fatalf("commit = %+v, %v; 5 is in flight", c, ok)
	}
	again := fresh(t, c.Offset, c.Metadata)
	var work []int64
	for o := int64(5); o < 11; o++ {
		if again.Deliver(o, 3) {
			work = append(work, o)
		}
	}
	if fmt.Sprint(work) != "[5 8 10]" {
		t.Errorf("after a restart %v run, want only what was in flight: [5 8 10]", work)
	}
}

func TestAckTwiceOrOfAStrangerIsRefused(t *testing.T) {
	tr := fresh(t, 0, "")
	tr.Deliver(0, 0)
	tr.Deliver(5, 0)
	if !tr.Ack(5) || tr.Ack(5) || tr.Ack(3) || tr.Ack(99) || tr.Ack(-1) {
		t.Error("want exactly one ack of 5 and none of 3, 99, -1")
	}
}

func TestARecordSeenBeforeIsNotWork(t *testing.T) {
	tr := fresh(t, 0, "")
	if !tr.Deliver(0, 0) || !tr.Deliver(1, 0) {
		t.Fatal("new records were refused")
	}
	if tr.Deliver(0, 0) || tr.Deliver(1, 0) {
		t.Error("a fetch that went back was taken for new work")
	}
}

func TestUncleanElectionDiscardsMetadata(t *testing.T) {
	tr := fresh(t, 0, "")
	for o := int64(0); o < 6; o++ {
		tr.Deliver(o, 4)
	}
	for _, o := range []int64{2, 3, 4} {
		tr.Ack(o)
	}
	c, _ := tr.Commit()
	// A new leader, epoch 5, lost 3 and above and wrote others in their place.
	again := fresh(t, c.Offset, c.Metadata)
	var work []int64
	for o, epoch := range []int32{4, 4, 4, 5, 5, 5} {
		if again.Deliver(int64(o), epoch) {
			work = append(work, int64(o))
		}
	}
	if fmt.Sprint(work) != "[0 1 3 4 5]" {
		t.Errorf("ran %v, want [0 1 3 4 5]: 3 and 4 are other records now", work)
	}
}

func TestMetadataOfAnotherTopicOrOffsetIsDropped(t *testing.T) {
	tr := fresh(t, 0, "")
	for o := int64(0); o < 4; o++ {
		tr.Deliver(o, 0)
	}
	tr.Ack(2)
	c, _ := tr.Commit()
	for name, open := range map[string]func() (*Tracker, error){
		"topic recreated": func() (*Tracker, error) { return New(c.Offset, c.Metadata, [16]byte{9}) },
		"offset moved":    func() (*Tracker, error) { return New(c.Offset+1, c.Metadata, topic) },
		"a member id":     func() (*Tracker, error) { return New(c.Offset, "perdure-worker-0-3f7a", topic) },
		"too long":        func() (*Tracker, error) { return New(c.Offset, strings.Repeat("A", MaxMetadata+1), topic) },
	} {
		tr, err := open()
		if err == nil {
			t.Errorf("%s: not noticed", name)
		}
		if !tr.Deliver(2, 0) {
			t.Errorf("%s: a record was skipped by metadata that is not its own", name)
		}
	}
}

func TestAnOffsetOfAnotherTopicIsDropped(t *testing.T) {
	tr := fresh(t, 0, "")
	for o := int64(0); o < 4; o++ {
		tr.Deliver(o, 0)
		tr.Ack(o)
	}
	c, _ := tr.Commit() // nothing is acknowledged beyond it
	if id, ok := TopicID(c.Metadata); !ok || id != topic {
		t.Fatalf("the metadata names topic %v, %v", id, ok)
	}
	again, err := New(c.Offset, c.Metadata, [16]byte{9})
	if !errors.Is(err, ErrOtherTopic) {
		t.Fatalf("the other topic is not noticed: %v", err)
	}
	if !again.Deliver(0, 0) || !again.Deliver(1, 0) || !again.Ack(0) {
		t.Error("records of the new topic are skipped")
	}
	if c, ok := again.Commit(); !ok || c.Offset != 1 {
		t.Errorf("commit = %+v, %v; want offset 1", c, ok)
	}
}

// What older versions wrote, and what is written where nothing tells topics apart.
func TestAnOffsetWhoseTopicIsNotSaidIsTrusted(t *testing.T) {
	none := [16]byte{}
	tr, _ := New(0, "", none)
	for o := int64(0); o < 4; o++ {
		tr.Deliver(o, 0)
	}
	tr.Ack(0)
	if c, _ := tr.Commit(); c.Metadata != "" {
		t.Errorf("metadata %q says nothing", c.Metadata)
	}
	tr.Ack(2)
	c, _ := tr.Commit()
	for name, open := range map[string]func() (*Tracker, error){
		"no metadata":         func() (*Tracker, error) { return New(1, "", topic) },
		"written without ids": func() (*Tracker, error) { return New(1, c.Metadata, topic) },
		"read without ids":    func() (*Tracker, error) { return New(1, pack(topic, 1, formRuns, 0, 0, nil), none) },
		"gaps, as always":     func() (*Tracker, error) { return New(1, pack(topic, 1, formRuns, 0, 2, []byte{1, 1}), topic) },
		"a member id":         func() (*Tracker, error) { return New(1, "perdure-worker-0-3f7a", topic) },
	} {
		tr, err := open()
		if errors.Is(err, ErrOtherTopic) || tr.Next() != 1 {
			t.Errorf("%s: begins at %d: %v", name, tr.Next(), err)
		}
	}
}

func TestMetadataIsShortenedToTheTopicThenToNothing(t *testing.T) {
	tr := fresh(t, 0, "")
	for o := int64(0); o < 400; o++ {
		tr.Deliver(o, 0)
		if o%3 > 0 {
			tr.Ack(o)
		}
	}
	c, _ := tr.Commit()
	whole := len(c.Metadata)
	c.Shorten()
	if id, ok := TopicID(c.Metadata); !ok || id != topic || len(c.Metadata) >= whole {
		t.Errorf("first to %q", c.Metadata)
	}
	if again := fresh(t, c.Offset, c.Metadata); !again.Deliver(1, 0) {
		t.Error("it still speaks of offsets")
	}
	if c.Shorten(); c.Metadata != "" {
		t.Errorf("then to %q", c.Metadata)
	}
}

func TestMetadataStaysUnderTheBrokersLimit(t *testing.T) {
	// Every second record done over 200,000 offsets: more than fits. The lowest
	// must stay, and nothing that was not acknowledged may be called done.
	tr := fresh(t, 0, "")
	const n = 200_000
	for o := int64(0); o < n; o++ {
		tr.Deliver(o, 0)
	}
	for o := int64(1); o < n; o += 2 {
		tr.Ack(o)
	}
	c, _ := tr.Commit()
	if len(c.Metadata) > MaxMetadata {
		t.Fatalf("metadata of %d bytes", len(c.Metadata))
	}
	again := fresh(t, c.Offset, c.Metadata)
	kept := 0
	for o := int64(0); o < n; o++ {
		if again.Deliver(o, 0) {
			continue
		}
		if o%2 == 0 {
			t.Fatalf("offset %d was never acknowledged and is skipped", o)
		}
		if kept++; int64(kept) != (o+1)/2 {
			t.Fatalf("offset %d is kept but a lower one is not", o)
		}
	}
	if kept < 11_000 {
		t.Errorf("only %d offsets kept in %d bytes", kept, len(c.Metadata))
	}
}

func TestCommitOnlyWhenSomethingChanged(t *testing.T) {
	tr := fresh(t, 0, "")
	tr.Deliver(0, 0)
	if _, ok := tr.Commit(); ok {
		t.Error("nothing was acknowledged, yet there is something to commit")
	}
	tr.Ack(0)
	c, ok := tr.Commit()
	if !ok {
		t.Fatal("nothing to commit after an ack")
	}
	if _, ok := tr.Commit(); !ok {
		t.Error("a commit that was never reported accepted must be offered again")
	}
	tr.Committed(c)
	if _, ok := tr.Commit(); ok {
		t.Error("the same commit twice")
	}
}

func TestSkipPassesAnUnreadableBatch(t *testing.T) {
	tr := fresh(t, 0, "")
	tr.Deliver(0, 0)
	tr.Skip(7) // offsets 1 to 6 were an unreadable batch
	if c, _ := tr.Commit(); c.Offset > 0 {
		t.Fatalf("commit %d passes record 0", c.Offset)
	}
	tr.Ack(0)
	if c, ok := tr.Commit(); !ok || c.Offset != 7 {
		t.Fatalf("commit = %+v, %v; want 7", c, ok)
	}
}

// TestWhatIsCompleteBehindAStuckRecordTakesNoMemory: 10 million records, of which a
// hundred are in flight at any time and one to the end.
func TestWhatIsCompleteBehindAStuckRecordTakesNoMemory(t *testing.T) {
	const n, flight = 10_000_000, 100
	tr := fresh(t, 0, "")
	var longest int
	for o := int64(0); o < n; o++ {
		tr.Deliver(o, 3)
		if o > flight && !tr.Ack(o-flight) {
			t.Fatalf("%d was acknowledged before", o-flight)
		}
		longest = max(longest, cap(tr.window))
	}
	if most := 4 * mergeLeast; longest > most {
		t.Errorf("room for %d entries, want at most %d", longest, most)
	}
	for _, o := range []int64{1, 5000, n / 2} {
		if tr.Ack(o) {
			t.Errorf("%d was acknowledged twice", o)
		}
	}
	c, ok := tr.Commit()
	if !ok || c.Offset != 0 {
		t.Fatalf("commit %+v", c)
	}
	again := fresh(t, c.Offset, c.Metadata)
	for o := int64(0); o < n; o++ {
		if open := o == 0 || o >= n-flight; again.Deliver(o, 3) != open {
			t.Fatalf("after a restart %d is work: %v", o, !open)
		}
	}
	for o := int64(n - flight); o < n; o++ {
		tr.Ack(o)
	}
	if tr.Ack(0); tr.Pending() != 0 || len(tr.window) != 0 {
		t.Errorf("%d pending in %d entries", tr.Pending(), len(tr.window))
	}
	if c, _ := tr.Commit(); c.Offset != n || c.LeaderEpoch != 3 {
		t.Errorf("commit %+v, want %d", c, n)
	}
}

// TestModel drives the tracker and a naive model (two sets of offsets) through
// everything that happens to a partition.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := []int64{} // offsets that hold records, with gaps
		end := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		first := end
		acked := map[int64]bool{}     // by anyone, ever: durable elsewhere
		delivered := map[int64]bool{} // to this assignment, as work
		committed, metadata := int64(-1), ""
		fetched := 0                                      // index into log
		known, kept := map[int64]bool{}, map[int64]bool{} // acks that the tracker, and the last commit, must know
		// With 2, neighbours are merged whenever that is possible.
		least := rapid.SampledFrom([]int{2, 16, mergeLeast}).Draw(t, "least")
		merging := func(tr *Tracker) *Tracker {
			tr.least, tr.mergeAt = least, least
			return tr
		}
		tr := merging(fresh(t, -1, ""))

		check := func(c Commit) {
			if len(c.Metadata) > MaxMetadata {
				t.Fatalf("metadata of %d bytes", len(c.Metadata))
			}
			for _, o := range log {
				if o < c.Offset && !acked[o] {
					t.Fatalf("commit %d passes %d, which nobody acknowledged", c.Offset, o)
				}
			}
			committed, metadata, kept = c.Offset, c.Metadata, maps.Clone(known)
		}
		assign := func() {
			tr = merging(fresh(t, committed, metadata))
			delivered, known = map[int64]bool{}, maps.Clone(kept)
			fetched = 0
			for fetched < len(log) && log[fetched] < committed {
				fetched++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "n") {
					end += int64(rapid.SampledFrom([]int{1, 1, 1, 1, 1, 2, 3, 90}).Draw(t, "gap"))
					log = append(log, end-1)
				}
			},
			"fetch": func(t *rapid.T) {
				for n := rapid.IntRange(1, 60).Draw(t, "n"); n > 0 && fetched < len(log); n-- {
					o := log[fetched]
					fetched++
					work := tr.Deliver(o, 1)
					if !work && !acked[o] {
						t.Fatalf("%d is skipped but nobody acknowledged it", o)
					}
					if work {
						delivered[o] = true
					}
				}
			},
			"ack": func(t *rapid.T) {
				var open []int64
				for _, o := range log {
					if delivered[o] {
						open = append(open, o)
					}
				}
				if len(open) == 0 {
					return
				}
				for range rapid.IntRange(1, len(open)).Draw(t, "n") {
					o := rapid.SampledFrom(open).Draw(t, "offset")
					if got := tr.Ack(o); got != delivered[o] {
						t.Fatalf("Ack(%d) = %v, want %v", o, got, delivered[o])
					}
					delete(delivered, o)
					acked[o], known[o] = true, true
				}
			},
			"commit": func(t *rapid.T) {
				if c, ok := tr.Commit(); ok {
					check(c)
					if rapid.Bool().Draw(t, "answered") {
						tr.Committed(c)
					}
				}
			},
			"revoke": func(t *rapid.T) {
				if c, ok := tr.Revoke(); ok {
					check(c)
				}
				for o := range delivered {
					if tr.Ack(o) {
						t.Fatalf("ack of %d after the revoke", o)
					}
				}
				assign()
				// Nothing was lost on the way: the next owner runs only what
				// was not acknowledged (these windows fit into the metadata).
				for fetched < len(log) && committed >= 0 {
					o := log[fetched]
					fetched++
					if tr.Deliver(o, 1) {
						if known[o] && len(log) < 2000 {
							t.Fatalf("%d was acknowledged before the revoke and runs again", o)
						}
						delivered[o] = true
					}
				}
			},
			"crash": func(*rapid.T) { assign() },
			"": func(t *rapid.T) {
				if got := tr.Pending(); got != len(delivered) {
					t.Fatalf("%d pending, model has %d", got, len(delivered))
				}
				if o, ok := tr.Oldest(); ok && !delivered[o] {
					t.Fatalf("oldest is %d, which is not in flight (log from %d)", o, first)
				}
			},
		})
	})
}

func FuzzMetadata(f *testing.F) {
	for _, n := range []int64{3, 40, 5000} {
		tr := fresh(f, 0, "")
		for o := range n {
			tr.Deliver(o, 7)
		}
		for o := int64(1); o < n; o += 1 + o%5 {
			tr.Ack(o)
		}
		c, _ := tr.Commit()
		f.Add(c.Metadata, c.Offset)
	}
	f.Add("", int64(0))
	f.Add("AXI", int64(4))
	f.Fuzz(func(t *testing.T, metadata string, committed int64) {
		tr, err := New(committed, metadata, topic)
		if err != nil && !tr.Deliver(max(committed, 0), 0) {
			t.Error("a record was skipped by metadata that could not be read")
		}
		for _, d := range []int64{1, 2, 3, 1 << 20} {
			if o := max(committed, 0) + d; o > 0 {
				tr.Deliver(o, 0)
			}
		}
		tr.Ack(max(committed, 0) + 2)
		if c, ok := tr.Revoke(); ok && committed >= 0 && c.Offset < committed {
			t.Errorf("commit went back from %d to %d", committed, c.Offset)
		}
	})
}

func BenchmarkDeliverAckCommit(b *testing.B) {
	tr := fresh(b, 0, "")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		tr.Deliver(int64(i), 0)
		if i >= 100 {
			tr.Ack(int64(i - 100 + i%3 - 1))
		}
		if i%1000 == 0 {
			tr.Commit()
		}
	}
}
