package dlq

// The answer of a worker to a lift (on_dead: block): on the partition of its key's
// letters, so that who reads it has read every letter that was made before it.

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// Answer says that a key's line stands at a lift's ask: nothing of the key runs
// until the lift's end comes.
type Answer struct {
	TaskID string   // whose source's lift it is
	Lift   int64    // number of the lift
	Queue  string   // set by the index
	Key    string   // of the line
	Blocks []string // letters that block the key, as far as the worker knows
}

// EncodeAnswer makes the record; the caller sets its Topic.
func EncodeAnswer(a *Answer, at time.Time) (*kgo.Record, error) {
	blocks, err := json.Marshal(a.Blocks)
	if err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	return &kgo.Record{
		Key: []byte(a.Key), Value: []byte{}, Timestamp: at,
		Headers: []kgo.RecordHeader{
			text(schemas.HeaderID, a.TaskID),
			text(schemas.HeaderPartitionKey, a.Key),
			text(schemas.HeaderRecord, recordAnswer),
			text(schemas.HeaderLine, schemas.Line{Verb: schemas.LineAsk, Lift: a.Lift}.String()),
			{Key: schemas.HeaderBlocks, Value: blocks},
		},
	}, nil
}

// DecodeAnswer reads an answer; nil where the record is something else.
func DecodeAnswer(r *kgo.Record) (*Answer, error) {
	i := ownBlock(r)
	if i < 0 || string(r.Headers[i].Value) != recordAnswer {
		return nil, nil
	}
	a := &Answer{Key: header(r.Headers, schemas.HeaderPartitionKey)}
	line, ok := schemas.ParseLine(header(r.Headers, schemas.HeaderLine))
	if a.TaskID, _ = identity(r.Headers); a.TaskID == "" || a.Key == "" || !ok || line.Verb != schemas.LineAsk {
		return nil, fmt.Errorf("%w: an answer without task, key or lift", ErrNotALetter)
	}
	a.Lift = line.Lift
	if err := json.Unmarshal([]byte(header(r.Headers, schemas.HeaderBlocks)), &a.Blocks); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotALetter, schemas.HeaderBlocks, err)
	}
	return a, nil
}

// ownBlock is where the headers of the dead-letter record itself begin, -1 = nowhere.
func ownBlock(r *kgo.Record) int {
	i := len(r.Headers) - 1
	for i >= 0 && r.Headers[i].Key != schemas.HeaderRecord {
		i--
	}
	return i
}
