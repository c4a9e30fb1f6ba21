package tracker

// What travels in the metadata of an offset commit: which topic the offset is of,
// for a commit names it and a name outlives its topic, and the acknowledged offsets
// above the low watermark.
//
//	base64url( version 1 | form | topic id, 16 bytes | low | leader epoch | span | body )
//
// low and span are unsigned varints, the leader epoch a signed one. Offsets from
// low on that lie below low+span are told by the body; those above are unknown,
// that is, not acknowledged. The body's form is the shorter of
//
//	'r'  alternating run lengths, the first not acknowledged
//	'b'  a bitmap, lowest offset first, 1 = acknowledged
//
// Without such offsets span is 0 and the body empty. Nothing is written where there
// are none and the brokers have no topic ids; older versions never wrote it then.

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxMetadata bounds the metadata of a commit, in bytes: the broker's default
// offset.metadata.max.bytes. When there is more to say, the lowest offsets stay
// and the claims answer for the rest.
const MaxMetadata = 4096

const (
	version   = 1
	formRuns  = 'r'
	formBits  = 'b'
	maxHeader = 2 + 16 + 3*binary.MaxVarintLen64
)

// maxBody is what is left of MaxMetadata for the body.
var maxBody = base64.RawURLEncoding.DecodedLen(MaxMetadata) - maxHeader

// ErrOtherTopic is returned for an offset that was committed for another topic of
// the same name: the topic was deleted and made again.
var ErrOtherTopic = errors.New("tracker: the offset was committed for another topic of this name: the topic was deleted and made again")

// noID is the id of a topic whose brokers have none (before Kafka 3.1).
var noID [16]byte

// errForeign is returned for metadata that is not ours; kgo, for one, writes its
// member id there.
var errForeign = errors.New("tracker: commit metadata is not ours")

// gaps is decoded metadata: acknowledged offsets as sorted, disjoint ranges.
type gaps struct {
	epoch  int32 // the highest leader epoch among the acknowledged records; -1 = unknown
	ranges []span
	at     int // ranges before it lie below every offset still to come
}

type span struct{ from, to int64 } // to is exclusive

// done reports whether the metadata says that the record at offset was
// acknowledged. Offsets are asked in growing order.
//
// A log that lost its tail in an unclean election has other records at those
// offsets, all of a higher leader epoch than any that was lost: the first of
// them ends what the metadata can say.
func (g *gaps) done(offset int64, epoch int32) bool {
	if g == nil {
		return false
	}
	if epoch >= 0 && g.epoch >= 0 && epoch > g.epoch {
		g.ranges, g.at = nil, 0
		return false
	}
	for g.at < len(g.ranges) && g.ranges[g.at].to <= offset {
		g.at++
	}
	return g.at < len(g.ranges) && g.ranges[g.at].from <= offset
}

// encode returns the metadata for the tracker's present window; t.mu is held.
func encode(t *Tracker) string {
	acked, epoch := t.acked()
	if len(acked) == 0 && t.topicID == noID {
		return ""
	}
	// Both forms, each as far as it fits: what is left out is only the highest.
	var runs, bits []byte
	var runsEnd, bitsEnd int64 // how far each tells, relative to low
	for _, s := range acked {
		from, to := s.from-t.low, s.to-t.low
		grown := binary.AppendUvarint(binary.AppendUvarint(runs, uint64(from-runsEnd)), uint64(to-from))
		if len(grown) > maxBody {
			break
		}
		runs, runsEnd = grown, to
	}
	for _, s := range acked {
		from, to := s.from-t.low, min(s.to-t.low, int64(maxBody)*8)
		if from >= to {
			break
		}
		bits, bitsEnd = setBits(bits, from, to), to
	}

	form, body, reach := byte(formRuns), runs, runsEnd
	if bitsEnd > runsEnd || bitsEnd == runsEnd && len(bits) < len(runs) {
		form, body, reach = formBits, bits, bitsEnd
	}
	return pack(t.topicID, t.low, form, epoch, reach, body)
}

func pack(topicID [16]byte, low int64, form byte, epoch int32, reach int64, body []byte) string {
	b := make([]byte, 0, maxHeader+len(body))
	b = append(b, version, form)
	b = append(b, topicID[:]...)
	b = binary.AppendUvarint(b, uint64(low))
	b = binary.AppendVarint(b, int64(epoch))
	b = binary.AppendUvarint(b, uint64(reach))
	return base64.RawURLEncoding.EncodeToString(append(b, body...))
}

// Shorten says less in the metadata: first that of the offsets is left out, then
// that of the topic.
func (c *Commit) Shorten() {
	short := OfTopic(c.topicID, c.Offset)
	if len(short) >= len(c.Metadata) {
		short = ""
	}
	c.Metadata = short
}

// OfTopic is commit metadata that says of which topic the offset is, and nothing else;
// "" where the topic has no id.
func OfTopic(topicID [16]byte, offset int64) string {
	if topicID == noID {
		return ""
	}
	return pack(topicID, offset, formRuns, -1, 0, nil)
}

// TopicID returns the id of the topic that commit metadata was written for; ok is
// false where it does not say.
func TopicID(metadata string) (id [16]byte, ok bool) {
	b, err := unpack(metadata)
	if err != nil {
		return id, false
	}
	id = [16]byte(b[2:18])
	return id, id != noID
}

// DoneBeyond counts the records beyond a committed offset that its metadata says are
// done; 0 where it says nothing, or is not ours.
func DoneBeyond(metadata string, committed int64) (n int64) {
	id, ok := TopicID(metadata)
	if !ok {
		return 0
	}
	g, err := decode(metadata, id, committed)
	if g == nil || err != nil {
		return 0
	}
	for _, r := range g.ranges {
		n += r.to - r.from
	}
	return n
}

// unpack returns the bytes of metadata that is ours.
func unpack(s string) ([]byte, error) {
	if len(s) > MaxMetadata {
		return nil, fmt.Errorf("tracker: commit metadata of %d bytes, at most %d are ours", len(s), MaxMetadata)
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 18 {
		return nil, errForeign
	}
	if b[0] != version {
		return nil, fmt.Errorf("tracker: commit metadata of version %d, this program reads %d", b[0], version)
	}
	return b, nil
}

// acked returns the acknowledged offsets above low as sorted, disjoint ranges,
// and the highest leader epoch among them: those of the window, and what the
// last commit said of offsets that were not fetched again yet. A gap in the log
// may count to either side: nothing can be delivered there.
func (t *Tracker) acked() (ranges []span, epoch int32) {
	epoch = -1
	for i := range t.window {
		e := &t.window[i]
		if !e.acked {
			continue
		}
		epoch = max(epoch, e.epoch)
		if i > 0 && t.window[i-1].acked && len(ranges) > 0 {
			ranges[len(ranges)-1].to = e.last + 1
		} else {
			ranges = append(ranges, span{e.offset, e.last + 1})
		}
	}
	if t.gaps == nil {
		return ranges, epoch
	}
	for _, s := range t.gaps.ranges[t.gaps.at:] {
		if s.to <= t.next {
			continue
		}
		s.from = max(s.from, t.next)
		if k := len(ranges); k > 0 && ranges[k-1].to >= s.from {
			ranges[k-1].to = s.to
		} else {
			ranges = append(ranges, s)
		}
		epoch = max(epoch, t.gaps.epoch)
	}
	return ranges, epoch
}

// decode reads what encode wrote; nil, nil when there is nothing to read.
func decode(s string, topicID [16]byte, committed int64) (*gaps, error) {
	if s == "" {
		return nil, nil
	}
	b, err := unpack(s)
	if err != nil {
		return nil, err
	}
	form := b[1]
	if id := [16]byte(b[2:18]); id != topicID {
		if id != noID && topicID != noID {
			return nil, ErrOtherTopic
		}
		return nil, errors.New("tracker: commit metadata that names no topic, or brokers that name none")
	}
	b = b[18:]
	low, n := binary.Uvarint(b)
	if n <= 0 || int64(low) != committed {
		return nil, errors.New("tracker: commit metadata belongs to another offset than the one committed")
	}
	b = b[n:]
	epoch, n := binary.Varint(b)
	if n <= 0 || int64(int32(epoch)) != epoch {
		return nil, errForeign
	}
	b = b[n:]
	reach, n := binary.Uvarint(b)
	if n <= 0 || reach > 1<<40 {
		return nil, errForeign
	}
	b = b[n:]
	g := &gaps{epoch: int32(epoch)}
	switch form {
	case formRuns:
		err = g.readRuns(b, committed, int64(reach))
	case formBits:
		err = g.readBits(b, committed, int64(reach))
	default:
		err = errForeign
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (g *gaps) readRuns(b []byte, low, reach int64) error {
	at := int64(0)
	for acked := false; len(b) > 0; acked = !acked {
		r, n := binary.Uvarint(b)
		if n <= 0 || (r == 0 && at > 0) || r > uint64(reach-at) {
			return errForeign
		}
		b = b[n:]
		if acked {
			g.ranges = append(g.ranges, span{low + at, low + at + int64(r)})
		}
		at += int64(r)
	}
	if at != reach {
		return errForeign
	}
	return nil
}

func (g *gaps) readBits(b []byte, low, reach int64) error {
	if int64(len(b)) != (reach+7)/8 {
		return errForeign
	}
	for i := int64(0); i < reach; i++ {
		if b[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		if k := len(g.ranges); k > 0 && g.ranges[k-1].to == low+i {
			g.ranges[k-1].to++
		} else {
			g.ranges = append(g.ranges, span{low + i, low + i + 1})
		}
	}
	return nil
}

// setBits grows b to hold bits up to to, and sets those from from on.
func setBits(b []byte, from, to int64) []byte {
	for int64(len(b)) < (to+7)/8 {
		b = append(b, 0)
	}
	for i := from; i < to; i++ {
		b[i/8] |= 1 << (i % 8)
	}
	return b
}
