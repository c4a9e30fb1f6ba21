package dlq

// What happened at each attempt: kept while a task waits, and in its letter.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Attempt is one try of a task, as it failed.
type Attempt struct {
	N          int       `json:"n,omitempty"`   // attempt, from 1
	Run        int64     `json:"run,omitempty"` // the run granted for it
	Start      time.Time `json:"start,omitzero"`
	End        time.Time `json:"end,omitzero"`
	Worker     string    `json:"worker,omitempty"` // instance
	ErrorClass string    `json:"error_class,omitempty"`
	Message    string    `json:"message,omitempty"`
	Stack      string    `json:"stack,omitempty"` // of a panic; first line = innermost frame

	Fingerprint string `json:"fingerprint,omitempty"` // what the handler called the cause

	// Cut > 0 makes this element a mark, not an attempt: so many attempts were
	// left out here, because the history grew over its bound.
	Cut int `json:"cut,omitempty"`
}

// EncodeAttempts gives the JSON array of a history, at most max bytes (0 =
// MaxAttempts). What does not fit is left out of the middle, with a mark: the
// first attempt and the latest ones say most. Texts are cut at their own
// bounds, and made valid UTF-8. A history with a mark may be encoded again.
func EncodeAttempts(as []Attempt, max int) []byte {
	if max <= 0 {
		max = MaxAttempts
	}
	parts := make([][]byte, len(as))
	size := 2
	for i := range as {
		parts[i] = encodeAttempt(as[i])
		size += len(parts[i]) + 1
	}
	if size <= max {
		return joinArray(parts)
	}
	// Keep the first, then the mark, then as many of the last as fit.
	const mark = 32
	keep, room := [][]byte(nil), max-2-mark
	first, cut := 0, 0
	if len(parts) > 0 && as[0].Cut == 0 && len(parts[0]) < room/2 {
		keep, room, first = append(keep, parts[0]), room-len(parts[0])-1, 1
	}
	from := len(parts)
	for from > first && len(parts[from-1])+1 <= room {
		from--
		room -= len(parts[from]) + 1
	}
	for _, a := range as[first:from] {
		cut += dropped(a)
	}
	if cut > 0 {
		keep = append(keep, fmt.Appendf(nil, `{"cut":%d}`, cut))
	}
	return joinArray(append(keep, parts[from:]...))
}

func dropped(a Attempt) int {
	if a.Cut > 0 {
		return a.Cut
	}
	return 1
}

func encodeAttempt(a Attempt) []byte {
	a.ErrorClass = Clip(a.ErrorClass, MaxErrorClass)
	a.Message = ClipMessage(a.Message)
	a.Stack = Clip(a.Stack, maxStack)
	a.Fingerprint = Clip(a.Fingerprint, MaxErrorClass)
	a.Worker = Clip(a.Worker, MaxErrorClass)
	b, err := json.Marshal(a)
	if err != nil { // a time outside the years 0 to 9999
		a.Start, a.End = time.Time{}, time.Time{}
		b, _ = json.Marshal(a)
	}
	return b
}

func joinArray(parts [][]byte) []byte {
	n := 2
	for _, p := range parts {
		n += len(p) + 1
	}
	b := append(make([]byte, 0, n), '[')
	for i, p := range parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, p...)
	}
	return append(b, ']')
}

// DecodeAttempts reads what EncodeAttempts wrote. Empty input is no attempts.
func DecodeAttempts(b []byte) ([]Attempt, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var as []Attempt
	if err := json.Unmarshal(b, &as); err != nil {
		return nil, fmt.Errorf("dlq: history of attempts: %w", err)
	}
	return as, nil
}

// asWritten reports whether the encoded history is within all bounds, so that to encode
// it again would change nothing of as.
func asWritten(encoded []byte, as []Attempt) bool {
	if len(as) == 0 || len(encoded) == 0 || len(encoded) > MaxAttempts || !utf8.Valid(encoded) || bytes.Contains(encoded, []byte(`\u`)) { // of escapes jsonb takes fewer than Go
		return false
	}
	for i := range as {
		a := &as[i]
		if len(a.ErrorClass) > MaxErrorClass || len(a.Message) > MaxMessage || len(a.Stack) > maxStack || len(a.Fingerprint) > MaxErrorClass || len(a.Worker) > MaxErrorClass {
			return false
		}
	}
	return true
}

// cutMark stands at the end of a text that was longer.
const cutMark = " …(cut)"

// ClipMessage is Clip to MaxMessage bytes.
func ClipMessage(s string) string { return Clip(s, MaxMessage) }

// Clip makes s valid UTF-8 without NUL (Postgres holds neither in a text), at
// most max bytes, and says where it was cut.
func Clip(s string, max int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	if len(s) <= max {
		return s
	}
	n := max - len(cutMark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + cutMark
}
