package foreign

// One record → what failed, why, and where it lay.

import (
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/dlq/internal/stacks"
	"github.com/perdure/perdure/schemas"
)

// maxText bounds what is looked at of a header or a value, in bytes: a stack
// trace's cause stands at its end, and no trace is longer than this.
const maxText = 256 << 10

// Letter is a dead letter of any system. Its strings are valid UTF-8 and bounded.
type Letter struct {
	Format Format
	// Where the record lay that failed. Topic "" = not known; Partition and Offset
	// -1 = not known. Group is the consumer group, or the connector.
	Origin  dlq.Origin
	Class   string // of the error; of Java's the innermost cause; "" = not known
	Message string // likewise
	Frame   string // innermost frame of the program itself; "" = not known
	// Fingerprint is that of Perdure's letters, with the topic of origin as kind.
	Fingerprint string
	// Headers of the original record: those of the letter without what the
	// format added.
	Headers []kgo.RecordHeader
	// Copied is false where the letter holds neither key nor value, as a share
	// group's does unless it is told to copy: the record is at its origin.
	Copied bool
}

// Read understands a record of a dead-letter topic. ok is false for a record of
// Perdure's that is no letter, but says that a task was completed.
func Read(r *kgo.Record) (l Letter, ok bool) {
	l = Letter{Format: Unknown, Origin: dlq.Origin{Partition: -1, Offset: -1}, Headers: r.Headers, Copied: true}
	lay := layoutOf(r.Headers)
	switch {
	case lay == nil:
		guess(r, &l)
	case lay.format == Perdure:
		own, resolved, err := dlq.Decode(r)
		if resolved != nil {
			return l, false
		}
		if err == nil {
			return ofPerdure(own), true
		}
		guess(r, &l)
	default:
		lay.read(r, &l)
	}
	l.Origin.Topic, l.Origin.Group = bounded(l.Origin.Topic, 249), bounded(l.Origin.Group, 255)
	l.Class, l.Message, l.Frame = bounded(l.Class, dlq.MaxErrorClass), bounded(l.Message, dlq.MaxMessage), bounded(l.Frame, dlq.MaxErrorClass)
	kind := l.Origin.Topic
	if kind == "" {
		kind = r.Topic
	}
	l.Fingerprint = dlq.Fingerprint(kind, l.Class, l.Message, l.Frame)
	return l, true
}

func ofPerdure(l *dlq.Letter) Letter {
	return Letter{Format: Perdure, Origin: l.Origin, Class: l.ErrorClass, Message: l.Message, Fingerprint: l.Fingerprint, Headers: l.Headers, Copied: true}
}

// layoutOf is the layout of the last failure: a record that died twice, in two
// systems, has the headers of both, the later ones behind. nil = none is known.
func layoutOf(hs []kgo.RecordHeader) *layout {
	for i := len(hs) - 1; i >= 0; i-- {
		if strings.HasPrefix(hs[i].Key, ours) && value(hs, schemas.HeaderRecord) != nil {
			return &layout{format: Perdure} // its block ends with headers of its own
		}
		for j := range layouts {
			lay := &layouts[j]
			if !strings.HasPrefix(hs[i].Key, lay.prefixes[0]) {
				continue
			}
			// One header of the next layout is named as this one's are.
			if j+1 < len(layouts) && hs[i].Key == layouts[j+1].group && value(hs, lay.topic) == nil {
				lay = &layouts[j+1]
			}
			return lay
		}
	}
	return nil
}

func (lay *layout) read(r *kgo.Record, l *Letter) {
	l.Format = lay.format
	l.Origin.Topic, l.Origin.Group = text(r.Headers, lay.topic), text(r.Headers, lay.group)
	l.Origin.Partition, l.Origin.Offset = coordinate(value(r.Headers, lay.partition), value(r.Headers, lay.offset))
	first := func(names ...string) string {
		for _, n := range names {
			if s := text(r.Headers, n); s != "" {
				return s
			}
		}
		return ""
	}
	// The cause before the wrapper: every failure of a Spring listener is a
	// ListenerExecutionFailedException.
	l.Class, l.Message = first(lay.cause, lay.class, lay.keyClass), first(lay.causeMessage, lay.message, lay.keyError)
	l.explain(text(r.Headers, lay.stack))
	l.Headers = lay.original(r.Headers)
	l.Copied = lay.format != ShareGroup || r.Key != nil || r.Value != nil
}

// explain takes the innermost cause and its frame from a stack trace, where
// there is one, and parts "class: message", as Streams writes it.
func (l *Letter) explain(trace string) {
	if class, message, frame := stacks.Java(trace); class != "" {
		l.Class, l.Message, l.Frame = class, message, frame
		return
	}
	if class, message, is := strings.Cut(l.Class, ": "); is && stacks.ClassName(class) {
		l.Class = class
		if l.Message == "" {
			l.Message = message
		}
	}
}

// original is the headers that the record had before it died.
func (lay *layout) original(hs []kgo.RecordHeader) []kgo.RecordHeader {
	kept := make([]kgo.RecordHeader, 0, len(hs))
next:
	for _, h := range hs {
		for _, p := range lay.prefixes {
			if strings.HasPrefix(h.Key, p) {
				continue next
			}
		}
		kept = append(kept, h)
	}
	return kept
}

// value is the last value of a header, as Kafka's own clients read a repeated one.
func value(hs []kgo.RecordHeader, name string) []byte {
	if name == "" {
		return nil
	}
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == name {
			return hs[i].Value
		}
	}
	return nil
}

func text(hs []kgo.RecordHeader, name string) string {
	b := value(hs, name)
	return string(b[:min(len(b), maxText)])
}

// coordinate reads a partition and an offset; -1, -1 unless both are there.
func coordinate(partition, offset []byte) (int32, int64) {
	p, o := number(partition, 4), number(offset, 8)
	if p < 0 || o < 0 || p > 1<<31-1 {
		return -1, -1
	}
	return int32(p), o
}

// number reads text, or a big-endian number of width bytes, as Java's ByteBuffer
// writes it: no partition or offset is so large that its first byte were a digit.
func number(b []byte, width int) int64 {
	switch {
	case len(b) != width || b[0] >= '0':
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			return -1
		}
		return n
	case width == 4:
		return int64(binary.BigEndian.Uint32(b))
	}
	return int64(binary.BigEndian.Uint64(b))
}

// bounded makes s valid UTF-8 of at most n bytes.
func bounded(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
