package schemas

// What a record says to its key's line, where the kind has on_dead: block
// (docs/decisions/0220).

import (
	"strconv"
	"strings"
)

// LineVerb is what a record does in its key's line.
type LineVerb string

// The verbs. A record without one is a task like any other.
const (
	LineFrom LineVerb = "from" // a task that waited behind a letter, and that lift Lift lets go on
	LineAsk  LineVerb = "ask"  // no task: the line stops here, and its worker says which blocks it knows
	LineLift LineVerb = "lift" // no task: the blocks of Letters end
	LineEnd  LineVerb = "end"  // no task: all that lift Lift let go stands before it; the line goes on
	LineDead LineVerb = "dead" // a task that must not run, for the reason schema, as Why says
)

// Line is the value of perdure_line, read.
type Line struct {
	Verb    LineVerb
	Lift    int64    // its number, unique in its source; 0 = of none, with LineDead alone
	Letters []string // of LineLift
	Why     string   // of LineDead
}

// Mark reports whether the record is no task but a word to the line.
func (l Line) Mark() bool { return l.Verb == LineAsk || l.Verb == LineLift || l.Verb == LineEnd }

// MaxLine bounds the value in bytes.
const MaxLine = 8 << 10

// String is the header's value: the verb, the number, the letters, between spaces.
func (l Line) String() string {
	s := string(l.Verb) + " " + strconv.FormatInt(l.Lift, 10)
	if l.Verb == LineDead {
		return s + " " + l.Why
	}
	if len(l.Letters) > 0 {
		s += " " + strings.Join(l.Letters, " ")
	}
	return s
}

// ParseLine reads a value; ok is false for anything else than String writes.
func ParseLine(s string) (Line, bool) {
	if len(s) > MaxLine {
		return Line{}, false
	}
	l, ok := parseLine(s)
	return l, ok && l.String() == s
}

func parseLine(s string) (l Line, ok bool) {
	verb, rest, _ := strings.Cut(s, " ")
	l.Verb = LineVerb(verb)
	number, letters, _ := strings.Cut(rest, " ")
	if l.Verb == LineDead {
		l.Why = letters
		l.Lift, ok = canonicalFrom([]byte(number), 0, 1<<63-1)
		return l, ok && badText([]byte(letters), MaxLine) == ""
	}
	n, ok := canonical(number, 1<<63-1)
	if !ok || letters != "" && l.Verb != LineLift {
		return Line{}, false
	}
	l.Lift = n
	switch l.Verb {
	case LineFrom, LineAsk, LineEnd:
		return l, true
	case LineLift:
		if letters == "" {
			return l, true
		}
		l.Letters = strings.Split(letters, " ")
		for _, letter := range l.Letters {
			id, epoch, _ := strings.Cut(letter, "@")
			_, err := ParseID(id)
			_, number := canonicalFrom([]byte(epoch), 0, maxEpoch)
			if err != nil || epoch == "" || !number {
				return Line{}, false
			}
		}
		return l, true
	}
	return Line{}, false
}

func validLine(s string) bool {
	_, ok := ParseLine(s)
	return ok
}
