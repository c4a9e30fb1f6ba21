package kafka

// Which topics a catalog needs, and how each must be set.

import (
	"strconv"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Partitions of topics that no catalog entry sizes.
const (
	retryPartitions = 4 // read by one relay
	sidePartitions  = 4 // most for events.* and dlq.*: read by one index
)

// Settings is what, beside the catalog, decides about topics.
type Settings struct {
	Names          Names
	History        time.Duration // how long events.* are kept; PERDURE_HISTORY
	MaxReplication int           // 0 = as the catalog says; an embedded Kafka has one broker

	Requests Requests // to the same brokers; nil only where no queue has delivery: shared
}

// setting is one topic setting and how its value is compared.
type setting struct {
	key  string
	want string
	rule rule
}

type rule int

const (
	exact   rule = iota // must be want
	atLeast             // a number, -1 is without limit: more is well
	period              // as atLeast, but what is more is not lowered without a person
)

// Topic is one topic that a catalog needs.
type Topic struct {
	Name        string
	Partitions  int  // wanted when it is made
	Sized       bool // an existing topic must have that many
	Replication int  // 0 = the broker's default, any
	Ordered     bool // a kind with order: key runs here
	Queue       string

	settings []setting
}

// leastEvents is how long events are kept at least: a replayer that is away for so long
// still finds them, however short the history is.
const leastEvents = time.Hour

// Topics returns every topic that cat needs, in a fixed order. Settings that are
// not named stay at the broker's: min.insync.replicas above all.
func Topics(cat *schemas.Catalog, s Settings) []Topic {
	ordered := map[string]bool{}
	for _, k := range cat.Kinds {
		if k.Ordered {
			ordered[k.Queue] = true
		}
	}
	most := 0
	var list []Topic
	for _, name := range cat.QueueNames() {
		q := cat.Queues[name]
		replication := s.replication(q.Replication)
		most = max(most, replication)
		side := min(q.Partitions, sidePartitions)
		list = append(list,
			Topic{Name: s.Names.Tasks(name), Queue: name, Partitions: q.Partitions, Sized: true,
				Replication: replication, Ordered: ordered[name], settings: waiting(false)},
			Topic{Name: s.Names.Events(name), Queue: name, Partitions: side,
				Replication: replication, settings: kept(max(s.History, leastEvents), 0)},
			Topic{Name: s.Names.DLQ(name), Queue: name, Partitions: side,
				Replication: replication, settings: kept(q.DLQRetention, MaxLetterRecord)})
	}
	for _, tier := range Tiers {
		list = append(list, Topic{Name: s.Names.Retry(tier.Name), Partitions: retryPartitions,
			Replication: most, settings: waiting(true)})
	}
	return append(list, Topic{Name: s.Names.Control(), Partitions: 1, Sized: true, Replication: most,
		settings: []setting{{"cleanup.policy", "compact", exact}}})
}

func (s Settings) replication(n int) int {
	if s.MaxReplication > 0 {
		return min(n, s.MaxReplication)
	}
	return n
}

// waiting is for tasks.* and retry.*: nothing in them is ever deleted by age or
// size, since it may still wait. A tier's delay counts from the broker's clock.
func waiting(tier bool) []setting {
	list := []setting{
		{"cleanup.policy", "delete", exact},
		{"retention.ms", "-1", atLeast},
		{"retention.bytes", "-1", atLeast},
		{"max.message.bytes", strconv.Itoa(MaxTaskRecord), atLeast},
	}
	if tier {
		list = append(list, setting{"message.timestamp.type", "LogAppendTime", exact})
	}
	return list
}

// kept is for events.* and dlq.*: deleted by age only. largest is in bytes, 0
// for the broker's default.
func kept(age time.Duration, largest int) []setting {
	list := []setting{
		{"cleanup.policy", "delete", exact},
		{"retention.ms", strconv.FormatInt(age.Milliseconds(), 10), period},
		{"retention.bytes", "-1", atLeast},
	}
	if largest > 0 {
		list = append(list, setting{"max.message.bytes", strconv.Itoa(largest), atLeast})
	}
	return list
}
