package imports

// What an import did, or would do.

import (
	"cmp"
	"slices"
	"strconv"
)

// Report is what became of the letters that were chosen.
type Report struct {
	Import    string        `json:"import,omitempty"` // names the run in the audit and in the header; "" = a dry run
	Topic     string        `json:"topic"`
	Cluster   string        `json:"cluster,omitempty"`
	DryRun    bool          `json:"dry_run,omitempty"`
	Letters   int64         `json:"letters"`                     // read, and chosen by group, origin and time
	WouldSend int64         `json:"would_send,omitempty"`        // of these, by a dry run
	Sent      int64         `json:"sent"`                        // of these: Kafka has them
	To        []Destination `json:"to"`                          // where they went, or would go
	Before    int64         `json:"sent_before"`                 // were sent by an earlier import
	Again     int64         `json:"died_again"`                  // of the letters: died after an import had sent them
	InDoubt   int64         `json:"in_doubt,omitempty"`          // claimed, and not known to be sent or not: the next import looks for them
	Refused   []Refused     `json:"refused"`                     // most letters first
	Settled   Settled       `json:"settled,omitzero"`            // of imports that were killed
	More      bool          `json:"more,omitempty"`              // the limit ended the reading
	Undecided int64         `json:"undecided_offsets,omitempty"` // behind an open transaction: not read

	to      map[string]*Destination
	refused map[Why]*Refused
}

// Destination is a topic that letters go to.
type Destination struct {
	Topic   string `json:"topic"`
	Letters int64  `json:"letters"`
}

// Why is why a letter is not sent.
type Why string

// The reasons.
const (
	Perdures     Why = "perdure"          // a letter, or a destination, of Perdure's own
	NoOrigin     Why = "no_origin"        // it does not say where it came from
	UnknownForm  Why = "unknown_format"   // what it says of that is a guess
	NoTopic      Why = "no_topic"         // its destination is not there
	Internal     Why = "internal_topic"   // its destination is Kafka's own
	SameTopic    Why = "dead_letters"     // its destination is the topic of dead letters itself
	NoPermission Why = "no_permission"    // this user may not write there, or not read its record
	TooMany      Why = "too_many_topics"  // its destination is one too many for one run
	Gone         Why = "gone"             // the record was not copied, and is not at its origin any more
	TooLarge     Why = "too_large"        // for its destination
	NoKey        Why = "no_key"           // a compacted topic takes none without a key
	Unknown      Why = "unknown"          // it may have been sent
	Rejected     Why = "refused_by_kafka" // for another reason, which is told
)

// Refused is letters that are not sent for one reason.
type Refused struct {
	Why     Why    `json:"why"`
	Letters int64  `json:"letters"`
	Detail  string `json:"detail"` // of the first
	First   string `json:"first"`  // topic/partition/offset
}

// Settled is what became of letters that were under way when a process ended.
type Settled struct {
	Found   int64 `json:"found,omitempty"`    // lie at their destination: they were sent
	NotSent int64 `json:"not_sent,omitempty"` // do not: they go now
	Unknown int64 `json:"unknown,omitempty"`  // cannot be told any more
}

func (r *Report) refuse(l *letter, why Why, detail string) {
	x := r.refused[why]
	if x == nil {
		x = &Refused{Why: why, Detail: detail, First: l.in(r.Topic)}
		r.refused[why] = x
	}
	x.Letters++
}

func (r *Report) goes(topic string) {
	d := r.to[topic]
	if d == nil {
		d = &Destination{Topic: topic}
		r.to[topic] = d
	}
	d.Letters++
	if r.DryRun {
		r.WouldSend++
	} else {
		r.Sent++
	}
}

// finish fills in the lists, in an order that the same letters give again.
func (r *Report) finish() {
	r.To, r.Refused = []Destination{}, []Refused{}
	for _, d := range r.to {
		r.To = append(r.To, *d)
	}
	slices.SortFunc(r.To, func(a, b Destination) int {
		return cmp.Or(cmp.Compare(b.Letters, a.Letters), cmp.Compare(a.Topic, b.Topic))
	})
	for _, x := range r.refused {
		r.Refused = append(r.Refused, *x)
	}
	slices.SortFunc(r.Refused, func(a, b Refused) int { return cmp.Or(cmp.Compare(b.Letters, a.Letters), cmp.Compare(a.Why, b.Why)) })
}

// place is where a letter lies in its topic.
type place struct {
	partition int32
	offset    int64
}

func (p place) in(topic string) string {
	return topic + "/" + strconv.Itoa(int(p.partition)) + "/" + strconv.FormatInt(p.offset, 10)
}
