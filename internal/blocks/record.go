package blocks

// Blocks on perdure.control: one key a block, so that who comes late can only
// write or end its own.

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// keyPrefix begins the record keys, `block/<queue>/<task id>@<epoch>`.
const keyPrefix = "block/"

// Line is one key's line in a queue: tasks of another source are another line.
type Line struct {
	Queue  string
	Source string
	Key    string
}

// LineOf is the line of a task's key.
func LineOf(queue, taskID, key string) Line {
	id, _ := schemas.ParseID(taskID) // a delivery's id was parsed before
	return Line{Queue: queue, Source: id.Source, Key: key}
}

// Block is a dead letter that stands before the later tasks of its line.
type Block struct {
	Queue     string
	Letter    string // <task id>@<epoch>
	Key       string
	Partition int32 // of the queue's topic
}

type value struct {
	Key       string `json:"key"`
	Partition int32  `json:"partition"`
}

// Stand is the record by which a block stands; the caller sets its Topic.
func (b Block) Stand() (*kgo.Record, error) {
	v, err := json.Marshal(value{b.Key, b.Partition})
	if err != nil {
		return nil, fmt.Errorf("block of %s: %w", b.Letter, err)
	}
	return &kgo.Record{Partition: 0, Key: []byte(keyPrefix + b.Queue + "/" + b.Letter), Value: v}, nil
}

// End is the record by which a block of a queue ends; the caller sets its Topic.
func End(queue, letter string) *kgo.Record {
	return &kgo.Record{Partition: 0, Key: []byte(keyPrefix + queue + "/" + letter)}
}

// parse reads a record; ok is false for what is no block's. A block that cannot
// be read is an error: who passes it might let a task overtake.
func parse(r *kgo.Record) (b Block, end, ok bool, err error) {
	name, is := strings.CutPrefix(string(r.Key), keyPrefix)
	if !is {
		return b, false, false, nil
	}
	b.Queue, b.Letter, is = strings.Cut(name, "/")
	id, _, _ := strings.Cut(b.Letter, "@")
	if _, e := schemas.ParseID(id); !is || e != nil {
		return b, false, false, fmt.Errorf("blocks: %s offset %d: key %q is not block/<queue>/<letter>", r.Topic, r.Offset, r.Key)
	}
	if r.Value == nil {
		return b, true, true, nil
	}
	var v value
	if e := json.Unmarshal(r.Value, &v); e != nil || v.Key == "" {
		return b, false, false, fmt.Errorf("blocks: %s offset %d: the block of %s has a value that is not ours", r.Topic, r.Offset, b.Letter)
	}
	b.Key, b.Partition = v.Key, v.Partition
	return b, false, true, nil
}
