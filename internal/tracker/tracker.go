package tracker

// The window between the committed offset and the last fetched record.

import (
	"errors"
	"sync"
)

// Commit is what may be committed for a partition now.
type Commit struct {
	Offset      int64  // the low watermark: every record below it is acknowledged
	LeaderEpoch int32  // of the last record below Offset, for KIP-320; -1 = unknown
	Metadata    string // the topic, and acknowledged offsets above Offset; at most MaxMetadata bytes; "" = none
	topicID     [16]byte
	version     uint64
}

// Tracker follows one partition for as long as it is assigned. All methods are
// safe for concurrent use.
type Tracker struct {
	topicID [16]byte

	mu       sync.Mutex
	window   []entry // fetched, in offset order; window[0] is not acknowledged
	mergeAt  int     // its length at which neighbours are merged next, and
	least    int     // the least that this may be
	low      int64   // next offset to commit; -1 = nothing fetched or committed yet
	lowEpoch int32   // leader epoch of the last record below low; -1 = unknown
	next     int64   // one above the last fetched offset
	pending  int     // entries of window that are not acknowledged
	gaps     *gaps   // from the last commit's metadata; nil = none
	version  uint64  // grows with each change that a commit would show
	written  uint64  // the version last committed
	revoked  bool
}

// entry is a record, or several acknowledged ones that follow each other: what is
// complete beyond a record that stays must not take memory for as long as that does.
type entry struct {
	offset, last int64
	epoch        int32 // of the last, which is the highest
	acked        bool
}

// mergeLeast is the length of a window up to which nothing is merged.
const mergeLeast = 1024

// New returns the tracker of a newly assigned partition. committed is the
// group's offset, negative if it has none; metadata is what stood beside it.
// Metadata that is damaged or foreign is dropped, and err says why: the tracker
// is good in any case, and records that it then shows again are stopped by their
// claims. With ErrOtherTopic the offset is dropped too: it says nothing of this
// topic, whose first record is to be the first delivered.
func New(committed int64, metadata string, topicID [16]byte) (t *Tracker, err error) {
	t = &Tracker{topicID: topicID, low: -1, lowEpoch: -1, next: -1, mergeAt: mergeLeast, least: mergeLeast}
	if committed < 0 {
		return t, nil
	}
	if t.gaps, err = decode(metadata, topicID, committed); errors.Is(err, ErrOtherTopic) {
		return t, err
	}
	t.low, t.next = committed, committed
	return t, err
}

// Deliver tells the tracker of a fetched record and reports whether it is to be
// worked on. It is not where the last commit's metadata says that it was
// acknowledged, where it was delivered before (a fetch that went back), or
// where the partition was revoked. leaderEpoch is the record's own; negative =
// unknown.
func (t *Tracker) Deliver(offset int64, leaderEpoch int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked || offset < t.next {
		return false
	}
	if t.low < 0 {
		t.low = offset
	}
	t.next = offset + 1
	done := t.gaps.done(offset, leaderEpoch)
	t.merge()
	t.window = append(t.window, entry{offset, offset, leaderEpoch, done})
	if done {
		t.advance()
	} else {
		t.pending++
		if len(t.window) == 1 && offset > t.low {
			t.low = offset // a gap in the log: compaction, transaction markers
			t.version++
		}
	}
	return !done
}

// Skip says that the log continues at offset: what lies between the last
// fetched record and it was unreadable and has been taken care of.
func (t *Tracker) Skip(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked || offset <= t.next {
		return
	}
	t.next = offset
	if len(t.window) == 0 {
		t.low = offset
	}
	t.version++
}

// Ack says that the record at offset is durable elsewhere. It reports false,
// and changes nothing, once the partition is revoked. Acknowledging twice, or
// what was never delivered, also reports false.
func (t *Tracker) Ack(offset int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked {
		return false
	}
	i := t.find(offset)
	if i < 0 || t.window[i].acked {
		return false
	}
	t.window[i].acked = true
	t.pending--
	t.version++
	if i == 0 {
		t.advance()
	}
	return true
}

// merge makes one entry of acknowledged neighbours, once the window has grown to
// twice of what was left the last time: no entry is looked at often. So a window has
// at most about four entries for each record that is not acknowledged.
func (t *Tracker) merge() {
	if len(t.window) < t.mergeAt {
		return
	}
	kept := t.window[:1]
	for _, e := range t.window[1:] {
		if before := &kept[len(kept)-1]; e.acked && before.acked {
			before.last, before.epoch = e.last, e.epoch
		} else {
			kept = append(kept, e)
		}
	}
	t.window, t.mergeAt = kept, max(2*len(kept), t.least)
}

// find returns the index in the window of the entry that begins with offset, -1 if
// none does: it is not there, or merged, that is, acknowledged. Logs are almost
// always dense, so the first guess is almost always right.
func (t *Tracker) find(offset int64) int {
	if len(t.window) == 0 {
		return -1
	}
	d := offset - t.window[0].offset
	if d < 0 {
		return -1
	}
	if d < int64(len(t.window)) && t.window[d].offset == offset {
		return int(d)
	}
	lo, hi := 0, min(len(t.window), int(min(d, int64(len(t.window))))+1)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if t.window[m].offset < offset {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(t.window) && t.window[lo].offset == offset {
		return lo
	}
	return -1
}

// advance moves the low watermark over everything acknowledged at the front.
func (t *Tracker) advance() {
	n := 0
	for n < len(t.window) && t.window[n].acked {
		t.lowEpoch = t.window[n].epoch
		n++
	}
	t.window = t.window[n:]
	if len(t.window) == 0 {
		t.low = t.next
		t.window = nil // the array is as large as the worst moment was
	} else {
		t.low = t.window[0].offset
	}
	t.version++
}

// Commit returns what may be committed now; ok is false when that is what was
// last reported to Committed, when nothing was fetched, or after Revoke.
func (t *Tracker) Commit() (c Commit, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked || t.low < 0 || t.version == t.written {
		return Commit{}, false
	}
	return t.commit(), true
}

func (t *Tracker) commit() Commit {
	return Commit{Offset: t.low, LeaderEpoch: t.lowEpoch, Metadata: encode(t), topicID: t.topicID, version: t.version}
}

// Committed says that c was accepted by the broker.
func (t *Tracker) Committed(c Commit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written = max(t.written, c.version)
}

// Revoke ends the assignment: from now on every Ack is refused. It returns the
// last commit, which is right to write only while the partition is still ours,
// that is inside the revoke callback; ok is false when there is nothing new to
// write. Later calls return false.
func (t *Tracker) Revoke() (c Commit, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.revoked {
		return Commit{}, false
	}
	t.revoked = true
	if t.low < 0 || t.version == t.written {
		return Commit{}, false
	}
	return t.commit(), true
}

// Next is the offset after the last fetched record; -1 = nothing known yet.
func (t *Tracker) Next() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// Pending is the number of delivered records that are not acknowledged.
func (t *Tracker) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending
}

// Oldest is the offset that holds the low watermark; ok is false when nothing
// is pending.
func (t *Tracker) Oldest() (offset int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.window) == 0 {
		return 0, false
	}
	return t.window[0].offset, true
}
