package schemas

// Task → Kafka record headers: the CloudEvents Kafka binding, binary mode.

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// RecordHeader is any type laid out like Header, such as kgo.RecordHeader: the
// codec reads and writes it as it is, so that this package needs no Kafka client.
type RecordHeader interface {
	~struct {
		Key   string
		Value []byte
	}
}

// JSONContentType is the content type of a task that names none.
const JSONContentType = "application/json"

// timeLayout is RFC 3339; written in UTC, so that one instant has one spelling.
const timeLayout = time.RFC3339Nano

// AppendRecordHeaders appends the headers of t's record on tasks.<queue> to
// dst. The record's key is t.RecordKey(), its value t.Payload.
//
// t must be valid (a Task from DecodeRecord or the outbox is): nothing is
// checked here. User headers follow in the order of their names; a name that is
// the codec's own is not written a second time. All values share one allocation
// and none aliases t.
func AppendRecordHeaders[H RecordHeader](dst []H, t *Task) []H {
	dst, _ = appendHeaders(dst, make([]byte, 0, valueBytes(t)), t, false)
	return dst
}

// AppendRecordHeadersIn is AppendRecordHeaders for one who makes many records:
// the values are appended to buf, which it returns, and share its memory.
func AppendRecordHeadersIn[H RecordHeader](dst []H, buf []byte, t *Task) ([]H, []byte) {
	return appendHeaders(dst, buf, t, false)
}

// AppendRetryHeaders is AppendRecordHeaders for a record on retry.<tier>: it
// adds the queue to go back to. Set t.Due to when the attempt is due.
func AppendRetryHeaders[H RecordHeader](dst []H, t *Task) []H {
	dst, _ = appendHeaders(dst, make([]byte, 0, valueBytes(t)), t, true)
	return dst
}

func appendHeaders[H RecordHeader](dst []H, buf []byte, t *Task, retry bool) ([]H, []byte) {
	dst = slices.Grow(dst, 15+len(t.Headers))
	w := headerWriter[H]{dst: dst, buf: slices.Grow(buf, valueBytes(t))} // whole, so that no value is cut by a move

	w.text(HeaderSpecVersion, SpecVersion)
	w.text(HeaderID, t.ID)
	w.mark()
	w.buf = append(w.buf, SourcePrefix...)
	w.buf = append(w.buf, sourceOf(t.ID)...)
	w.end(HeaderSource)
	w.text(HeaderType, t.Kind)
	w.time(HeaderTime, t.Time)
	if t.Key != "" {
		w.text(HeaderPartitionKey, t.Key)
	}
	if t.DataSchema != "" {
		w.text(HeaderDataSchema, t.DataSchema)
	}
	w.time(HeaderExpiry, t.Deadline)
	if t.TraceParent != "" {
		w.text(HeaderTraceParent, t.TraceParent)
	}
	if t.ContentType != "" {
		w.text(HeaderContentType, t.ContentType)
	} else {
		w.text(HeaderContentType, JSONContentType)
	}

	if t.Attempt > 1 {
		w.number(HeaderAttempt, int64(t.Attempt))
	}
	if t.Epoch > 0 {
		w.number(HeaderEpoch, int64(t.Epoch))
	}
	if t.Run > 0 {
		w.number(HeaderRun, t.Run)
	}
	if !t.Due.IsZero() {
		w.number(HeaderDue, t.Due.UnixMilli())
	}
	if t.Ordered {
		w.text(HeaderOrder, orderKey)
	}
	if t.Unique {
		w.text(HeaderUnique, UniqueCompleted)
	}
	if t.Repair > 0 {
		w.number(HeaderRepair, int64(t.Repair))
	}
	if t.Line != "" {
		w.text(HeaderLine, t.Line)
	}
	if t.Place > 0 {
		w.number(HeaderPlace, t.Place)
	}
	if retry {
		w.text(HeaderQueue, t.Queue)
	}
	w.users(t.Headers)
	return w.dst, w.buf
}

// orderKey is the only value of HeaderOrder.
const orderKey = "key"

// valueBytes is at least what all header values of t need together.
func valueBytes(t *Task) int {
	// 160: the version, two times, six numbers; sourceOf(ID) is shorter than ID.
	n := 160 + len(SourcePrefix) + 2*len(t.ID) + len(t.Kind) + len(t.Key) + len(t.DataSchema) +
		len(t.TraceParent) + len(t.ContentType) + len(JSONContentType) + len(t.Queue) + len(t.Line) + 20
	for _, v := range t.Headers {
		n += len(v)
	}
	return n
}

// sourceOf cuts <source> from <source>-<generation>-<seq>.
func sourceOf(id string) string {
	for range 2 {
		if i := strings.LastIndexByte(id, '-'); i >= 0 {
			id = id[:i]
		}
	}
	return id
}

// headerWriter puts all values into one buffer; each header gets a slice of it
// whose capacity ends with it, so that an append by a caller cannot reach the next.
type headerWriter[H RecordHeader] struct {
	dst   []H
	buf   []byte
	start int
}

func (w *headerWriter[H]) mark() { w.start = len(w.buf) }

func (w *headerWriter[H]) end(name string) {
	w.dst = append(w.dst, H(Header{name, w.buf[w.start:len(w.buf):len(w.buf)]}))
}

func (w *headerWriter[H]) text(name, value string) {
	w.mark()
	w.buf = append(w.buf, value...)
	w.end(name)
}

func (w *headerWriter[H]) number(name string, n int64) {
	w.mark()
	w.buf = strconv.AppendInt(w.buf, n, 10)
	w.end(name)
}

// time writes nothing for the zero time.
func (w *headerWriter[H]) time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	w.mark()
	w.buf = t.UTC().AppendFormat(w.buf, timeLayout)
	w.end(name)
}

func (w *headerWriter[H]) users(headers map[string]string) {
	if len(headers) == 0 {
		return
	}
	var stack [MaxHeaders]string
	names := stack[:0]
	for name := range headers {
		if !ownHeader(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		w.text(name, headers[name])
	}
}
