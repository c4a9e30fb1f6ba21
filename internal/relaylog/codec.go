package relaylog

// The codec of relay_log.hops: about three bytes an id.
//
//	version(1) streams topics… then for each hop: id, stream, offset
//
// A stream is a (topic, partition), listed once in order of first use. Ids are
// zigzag deltas to the hop before, offsets zigzag deltas to the next offset that
// the stream would give. All numbers are varints.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Hop says where one outbox row went. A row that died in the relay has the
// topic of its dead letter.
type Hop struct {
	ID        int64 // position in the outbox; a replay's row has its own
	Topic     string
	Partition int32
	Offset    int64
}

// ErrCorrupt is wrapped by every error of Decode.
var ErrCorrupt = errors.New("relay log: hops are not in a form that this version reads")

const (
	version     = 1
	minHopBytes = 3 // id, stream and offset take a byte each at least
)

type stream struct {
	topic     string
	partition int32
}

// Encode returns hops in their order. Nil and empty give an encoding of none.
func Encode(hops []Hop) []byte {
	index := make(map[stream]int)
	var streams []stream
	for i := range hops {
		s := stream{hops[i].Topic, hops[i].Partition}
		if _, ok := index[s]; !ok {
			index[s] = len(streams)
			streams = append(streams, s)
		}
	}

	b := make([]byte, 0, 16+40*len(streams)+4*len(hops))
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(streams)))
	for _, s := range streams {
		b = binary.AppendUvarint(b, uint64(len(s.topic)))
		b = append(b, s.topic...)
		b = binary.AppendVarint(b, int64(s.partition))
	}
	b = binary.AppendUvarint(b, uint64(len(hops)))
	next := make([]int64, len(streams))
	var id int64
	for i := range hops {
		h := &hops[i]
		n := index[stream{h.Topic, h.Partition}]
		// Differences wrap around on purpose: Decode adds them with the same wrap.
		b = binary.AppendVarint(b, h.ID-id)
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendVarint(b, h.Offset-next[n])
		id, next[n] = h.ID, h.Offset+1
	}
	return b
}

// Decode is the inverse of Encode. It accepts nothing else: a torn or longer
// value is an error that wraps ErrCorrupt.
func Decode(b []byte) ([]Hop, error) {
	var hops []Hop
	err := scan(b, func(n int) { hops = make([]Hop, 0, n) }, func(h Hop) bool {
		hops = append(hops, h)
		return true
	})
	if err != nil {
		return nil, err
	}
	return hops, nil
}

// lookup finds one id without building the whole list.
func lookup(b []byte, id int64) (hop Hop, ok bool, err error) {
	err = scan(b, func(int) {}, func(h Hop) bool {
		if h.ID == id {
			hop, ok = h, true
		}
		return !ok
	})
	return hop, ok, err
}

// scan calls size with the number of hops, then each for every hop until it
// returns false.
func scan(b []byte, size func(int), each func(Hop) bool) error {
	if len(b) == 0 || b[0] != version {
		return fmt.Errorf("%w: unknown version", ErrCorrupt)
	}
	d := decoder{b: b[1:]}
	streams := d.streams()
	n := d.uvarint()
	if d.bad || n > uint64(len(d.b)/minHopBytes) {
		return fmt.Errorf("%w: torn before the first hop", ErrCorrupt)
	}
	size(int(n))
	next := make([]int64, len(streams))
	var id int64
	for i := uint64(0); i < n; i++ {
		id += d.varint()
		s := d.uvarint()
		delta := d.varint()
		if d.bad || s >= uint64(len(streams)) {
			return fmt.Errorf("%w: torn at hop %d of %d", ErrCorrupt, i, n)
		}
		offset := next[s] + delta
		next[s] = offset + 1
		if !each(Hop{ID: id, Topic: streams[s].topic, Partition: streams[s].partition, Offset: offset}) {
			return nil
		}
	}
	if len(d.b) != 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrCorrupt, len(d.b))
	}
	return nil
}

// decoder takes numbers off the front of b; bad stays set after the first failure.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) streams() []stream {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.b)/2) { // a length and a partition each
		d.bad = true
		return nil
	}
	streams := make([]stream, n)
	for i := range streams {
		l := d.uvarint()
		if d.bad || l > uint64(len(d.b)) {
			d.bad = true
			return nil
		}
		streams[i].topic = string(d.b[:l])
		d.b = d.b[l:]
		p := d.varint()
		if p < math.MinInt32 || p > math.MaxInt32 {
			d.bad = true
			return nil
		}
		streams[i].partition = int32(p)
	}
	return streams
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}
