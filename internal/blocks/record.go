package blocks

// Blocks on perdure.control: one key a block, so that who comes late can only
// write or end its own.

import (
	"encoding/json"
	"fmt"
	"strconv"
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
	Letter    string // <task id>@<epoch>, or OfLift
	Key       string
	Partition int32 // of the queue's topic
}

// noEpoch is that of blocks which are no letter's. No task comes to it.
const noEpoch = 1<<15 - 1

// OfLift names the block of a line that gave up the ask of a lift, which is known by a
// task of its source.
func OfLift(taskID string, lift int64) string {
	id, _ := schemas.ParseID(taskID) // a delivery's id was parsed before
	id.Seq = lift
	return id.String() + "@" + strconv.Itoa(noEpoch)
}

func isLift(letter string) bool { return strings.HasSuffix(letter, "@"+strconv.Itoa(noEpoch)) }

// Own reports whether a block is that of a task's own letter, of this epoch or an
// earlier one.
func Own(letter, taskID string, epoch int) bool {
	id, of, _ := strings.Cut(letter, "@")
	n, err := strconv.Atoi(of)
	return id == taskID && err == nil && n <= epoch
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

// parse reads a record; ok is false for what is no block's. A block whose value
// cannot be read is an error: it is some key's, and stands until its end.
func parse(r *kgo.Record) (b Block, end, ok bool, err error) {
	name, is := strings.CutPrefix(string(r.Key), keyPrefix)
	if !is {
		return b, false, false, nil
	}
	b.Queue, b.Letter, _ = strings.Cut(name, "/")
	id, _, _ := strings.Cut(b.Letter, "@")
	if _, e := schemas.ParseID(id); e != nil {
		return b, false, false, nil // nobody's: no worker writes it
	}
	if r.Value == nil {
		return b, true, true, nil
	}
	var v value
	if e := json.Unmarshal(r.Value, &v); e != nil || v.Key == "" {
		return b, false, true, fmt.Errorf("blocks: %s offset %d: the block of %s has a value that is not ours: when the letter is settled, write a record without a value under its key %q",
			r.Topic, r.Offset, b.Letter, r.Key)
	}
	b.Key, b.Partition = v.Key, v.Partition
	return b, false, true, nil
}
