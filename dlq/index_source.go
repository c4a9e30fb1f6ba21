package dlq

// Several sources on one Kafka: each has a database and an index of its own, which
// keeps what is about its own tasks. Each index has a group of its own, or they
// would split the partitions among them, and with them the letters.

import (
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// group is this index's consumer group.
func (x *Index) group() string {
	if x.cfg.Source == "" {
		return x.deps.Names.IndexGroup(kafka.DefaultSource)
	}
	return x.deps.Names.IndexGroup(x.cfg.Source)
}

// foreign reports whether a task is of another source. Where no id can be read
// nothing is: every index keeps such records, so that somebody sees them.
func (x *Index) foreign(taskID string) bool {
	if x.cfg.Source == "" {
		return false
	}
	id, err := schemas.ParseID(taskID)
	return err == nil && id.Source != x.cfg.Source
}
