package kafka

// At start: the topics are made, or found as they should be, or nothing begins.

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/schemas"
)

// MismatchError lists everything that differs where nothing may be changed.
type MismatchError struct{ Changes []Change }

// Error implements error: one difference a line.
func (e *MismatchError) Error() string {
	var b strings.Builder
	b.WriteString("kafka: the topics are not as the catalog asks, and PERDURE_KAFKA_TOPICS=check changes nothing:")
	for _, c := range e.Changes {
		b.WriteString("\n  ")
		b.WriteString(c.Message)
	}
	return b.String()
}

// Ensure makes the topics right (check false, PERDURE_KAFKA_TOPICS=create) and
// returns the differences that a person must mend, for a warning. With check it
// changes nothing, and any difference is a *MismatchError, but for a lower
// max.message.bytes on tasks and retry topics: it lowers PayloadLimit.
func Ensure(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings, check bool) ([]Change, error) {
	changes, err := Plan(ctx, adm, cat, s)
	if err != nil {
		return nil, err
	}
	if check {
		return nil, mismatch(changes)
	}
	if err := Apply(ctx, adm, changes); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Auto }), nil
}

func mismatch(changes []Change) error {
	var wrong []Change
	for _, c := range changes {
		tooSmall := limit(c.Have) <= RecordOverhead
		largest := c.What == WhatSetting && c.Setting == "max.message.bytes" && limit(c.Want) == MaxTaskRecord
		if !largest || tooSmall {
			wrong = append(wrong, c)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &MismatchError{wrong}
}

// PayloadLimit returns the largest payload, in bytes, that every tasks and retry
// topic of the catalog takes: the smallest max.message.bytes less RecordOverhead,
// at most schemas.MaxPayload. The topics must be there.
func PayloadLimit(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings) (int, error) {
	var names []string
	for _, t := range Topics(cat, s) {
		for _, want := range t.settings {
			if want.key == "max.message.bytes" && limit(want.want) == MaxTaskRecord {
				names = append(names, t.Name)
			}
		}
	}
	configs, err := topicConfigs(ctx, adm, names)
	if err != nil {
		return 0, err
	}
	most := int64(schemas.MaxPayload)
	for _, name := range names {
		if got, ok := configs[name]["max.message.bytes"]; ok {
			most = min(most, limit(got)-RecordOverhead)
		}
	}
	if most <= 0 {
		return 0, fmt.Errorf("kafka: max.message.bytes of a tasks or retry topic is not above %d bytes: no payload fits", RecordOverhead)
	}
	return int(most), nil
}
