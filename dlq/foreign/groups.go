package foreign

// Letters counted by cause, in bounded memory.

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
)

// Bounds of what Groups keeps.
const (
	MaxGroups  = 10_000 // causes; letters of more are counted as others
	MaxSamples = 5      // letters of a group
	maxOrigins = 20     // topics of origin, and consumer groups, of a group
	maxShown   = 1 << 10
)

// Groups counts letters by fingerprint; safe for concurrent use. The zero Groups
// is ready.
type Groups struct {
	// Want, unless "", is the one group of which whole records are kept.
	Want string
	// Text, unless "", is what a group's error must have to be told by Summary, as
	// dlq.Says compares it.
	Text string

	mu      sync.Mutex
	groups  map[string]*Group
	other   int64
	letters int64
	formats map[Format]int64
	without Without
}

// Group is the letters of one cause.
type Group struct {
	Group     string    `json:"group"` // fingerprint
	Letters   int64     `json:"letters"`
	FirstSeen time.Time `json:"first_seen"` // of the records' timestamps
	LastSeen  time.Time `json:"last_seen"`
	Class     string    `json:"error_class,omitempty"`
	Message   string    `json:"message,omitempty"` // of the sample that was seen first
	Frame     string    `json:"frame,omitempty"`
	Origins   []string  `json:"origin_topics,omitempty"`
	Consumers []string  `json:"consumers,omitempty"` // consumer groups or connectors
	Formats   []Format  `json:"formats"`
	Samples   []Sample  `json:"samples"`
}

// Sample is where a letter of a group lies.
type Sample struct {
	At     string    `json:"at"`               // topic/partition/offset of the letter
	Origin string    `json:"origin,omitempty"` // topic/partition/offset of the record that failed, as far as it is known
	Seen   time.Time `json:"seen"`
	Copied bool      `json:"copied"` // the letter holds the record

	Letter Letter      `json:"-"`
	Record *kgo.Record `json:"-"` // of the group that was asked for; else nil
}

// Without counts letters by what could not be found in them.
type Without struct {
	Error  int64 `json:"error,omitempty"`  // neither class nor message
	Stack  int64 `json:"stack,omitempty"`  // no frame of the program
	Origin int64 `json:"origin,omitempty"` // no topic that it came from
	Record int64 `json:"record,omitempty"` // the record was not copied: it is at its origin, if it still is
}

// Summary is what was counted.
type Summary struct {
	Letters int64            `json:"letters"`
	Groups  []Group          `json:"groups"`                    // most letters first
	Other   int64            `json:"other_letters,omitempty"`   // of causes beyond MaxGroups
	Formats map[Format]int64 `json:"formats"`                   // letters of each
	Without Without          `json:"letters_without,omitempty"` // what could not be found
}

// Add counts a record of a dead-letter topic. It keeps none of its bytes but those
// of samples of the group Want.
func (g *Groups) Add(r *kgo.Record) {
	l, ok := Read(r) // the work, outside of the lock
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.groups == nil {
		g.groups, g.formats = map[string]*Group{}, map[Format]int64{}
	}
	g.letters++
	g.formats[l.Format]++
	g.miss(&l)
	x := g.groups[l.Fingerprint]
	if x == nil {
		if len(g.groups) >= MaxGroups && l.Fingerprint != g.Want {
			g.other++
			return
		}
		x = &Group{
			Group: l.Fingerprint, FirstSeen: r.Timestamp, LastSeen: r.Timestamp,
			// Copies: these may be parts of a trace of many kilobytes.
			Class: strings.Clone(l.Class), Message: strings.Clone(bounded(l.Message, maxShown)), Frame: strings.Clone(l.Frame),
		}
		g.groups[l.Fingerprint] = x
	}
	x.Letters++
	if r.Timestamp.Before(x.FirstSeen) {
		x.FirstSeen = r.Timestamp
	}
	if r.Timestamp.After(x.LastSeen) {
		x.LastSeen = r.Timestamp
	}
	x.Origins, x.Consumers = join(x.Origins, l.Origin.Topic), join(x.Consumers, l.Origin.Group)
	if !slices.Contains(x.Formats, l.Format) {
		x.Formats = append(x.Formats, l.Format)
	}
	if len(x.Samples) < MaxSamples {
		s := Sample{At: at(r.Topic, r.Partition, r.Offset), Seen: r.Timestamp, Copied: l.Copied, Letter: Letter{Format: l.Format, Origin: l.Origin}}
		if l.Origin.Topic != "" && l.Origin.Offset >= 0 {
			s.Origin = at(l.Origin.Topic, l.Origin.Partition, l.Origin.Offset)
		}
		if l.Fingerprint == g.Want {
			s.Letter, s.Record = l, r
		}
		x.Samples = append(x.Samples, s)
	}
}

func (g *Groups) miss(l *Letter) {
	for _, m := range []struct {
		missing bool
		n       *int64
	}{
		{l.Class == "" && l.Message == "", &g.without.Error},
		{l.Frame == "" && l.Format != Perdure, &g.without.Stack},
		{l.Origin.Topic == "", &g.without.Origin},
		{!l.Copied, &g.without.Record},
	} {
		if m.missing {
			*m.n++
		}
	}
}

// join adds a name to a short sorted list, unless it is full.
func join(list []string, name string) []string {
	i, there := slices.BinarySearch(list, name)
	if name == "" || there || len(list) >= maxOrigins {
		return list
	}
	return slices.Insert(list, i, name)
}

func at(topic string, partition int32, offset int64) string {
	return topic + "/" + strconv.Itoa(int(partition)) + "/" + strconv.FormatInt(offset, 10)
}

// Summary returns what was counted until now, at most limit groups (0 = all). The
// letters of groups beyond are in Other; those of groups without Text are only counted.
func (g *Groups) Summary(limit int) Summary {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Summary{Letters: g.letters, Other: g.other, Formats: maps.Clone(g.formats), Without: g.without, Groups: make([]Group, 0, len(g.groups))}
	for _, x := range g.groups {
		if g.Text == "" || dlq.Says(x.Class, x.Message, g.Text) {
			s.Groups = append(s.Groups, *x)
		}
	}
	slices.SortFunc(s.Groups, func(a, b Group) int {
		switch {
		case a.Letters != b.Letters:
			return int(b.Letters - a.Letters)
		case !a.LastSeen.Equal(b.LastSeen):
			return b.LastSeen.Compare(a.LastSeen)
		case a.Group < b.Group:
			return -1
		}
		return 1
	})
	if limit > 0 && len(s.Groups) > limit {
		for _, x := range s.Groups[limit:] {
			s.Other += x.Letters
		}
		s.Groups = s.Groups[:limit]
	}
	return s
}

// Find returns the group with this fingerprint.
func (g *Groups) Find(fingerprint string) (Group, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x, ok := g.groups[fingerprint]
	if !ok {
		return Group{}, false
	}
	return *x, true
}
