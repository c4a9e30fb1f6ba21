package schemas

// The identity of a task: <source>-<generation>-<seq>, on every wire.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MaxIDLen is the greatest length of a task id, in bytes.
const MaxIDLen = 64

// ErrBadID is wrapped by every error of ParseID.
var ErrBadID = errors.New("not a task id")

// ID names one task for ever. The zero ID names none.
type ID struct {
	Source     string // the producing database, PERDURE_SOURCE; [a-z0-9-]
	Generation int    // raised only by `perdure outbox reset`; from 1
	Seq        int64  // the outbox sequence; from 1
}

// String returns the id as it stands on every wire.
func (id ID) String() string {
	b := make([]byte, 0, MaxIDLen)
	return string(id.Append(b))
}

// Append appends the wire form to b.
func (id ID) Append(b []byte) []byte {
	b = append(b, id.Source...)
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(id.Generation), 10)
	b = append(b, '-')
	return strconv.AppendInt(b, id.Seq, 10)
}

// ParseID reads the wire form. A source may itself contain dashes, so the two
// numbers are taken from the right. Only the canonical form is accepted: no
// signs, no leading zeros.
func ParseID(s string) (ID, error) {
	if len(s) > MaxIDLen {
		return ID{}, fmt.Errorf("%w: longer than %d bytes", ErrBadID, MaxIDLen)
	}
	j := strings.LastIndexByte(s, '-')
	if j <= 0 {
		return ID{}, fmt.Errorf("%w: want <source>-<generation>-<seq>", ErrBadID)
	}
	i := strings.LastIndexByte(s[:j], '-')
	if i <= 0 {
		return ID{}, fmt.Errorf("%w: want <source>-<generation>-<seq>", ErrBadID)
	}
	if !ValidSource(s[:i]) {
		return ID{}, fmt.Errorf("%w: source must be [a-z0-9-], not begin or end with a dash", ErrBadID)
	}
	gen, ok1 := canonical(s[i+1:j], 1<<31-1)
	seq, ok2 := canonical(s[j+1:], 1<<63-1)
	if !ok1 || !ok2 {
		return ID{}, fmt.Errorf("%w: generation and seq must be positive decimal numbers", ErrBadID)
	}
	return ID{Source: s[:i], Generation: int(gen), Seq: seq}, nil
}

// canonical reads a positive decimal number that has exactly one spelling.
func canonical(s string, limit int64) (int64, bool) {
	if s == "" || s[0] == '0' || len(s) > 19 {
		return 0, false
	}
	var n uint64 // 19 digits always fit
	for i := range len(s) {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = 10*n + uint64(c)
	}
	return int64(n), n <= uint64(limit)
}

// ValidSource reports whether s can name a producing database: 1 to 32 bytes
// of [a-z0-9-], with a letter or digit at both ends.
func ValidSource(s string) bool { return len(s) <= 32 && validName(s) }

// ValidQueue reports whether s can name a queue: 1 to 60 bytes of [a-z0-9-].
// No dots or underscores: Kafka's metrics cannot tell them apart.
func ValidQueue(s string) bool { return len(s) <= 60 && validName(s) }

func validName(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
