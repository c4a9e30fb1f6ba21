package foreign

// Reading for whoever acts on what is read: in order, and to be stopped.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// InOrder is Topic for one reader: partition by partition, each from its
// beginning to where it ended when the reading began. each gets some records at a
// time, and may keep them; its error ends the reading and is returned.
func (c *Cluster) InOrder(ctx context.Context, topic string, since time.Time, p *Progress, begun func(Extent) error, each func([]*kgo.Record) error) error {
	info, spans, x, err := c.extent(ctx, topic, since)
	if err != nil {
		return err
	}
	if err := begun(x); err != nil {
		return err
	}
	for _, s := range spans {
		if err := c.span(ctx, info, s, committed, func(recs []*kgo.Record, passed int64) error {
			young := recs[:0]
			for _, r := range recs {
				if !r.Timestamp.Before(since) {
					young = append(young, r)
				}
			}
			p.Offsets.Add(passed)
			p.Records.Add(int64(len(young)))
			return each(young)
		}); err != nil {
			return err
		}
	}
	return nil
}

var errEnough = errors.New("enough")

// Tail hands every record of a partition, committed or not, to each: from an
// offset to where the partition ends now, or until each says enough. whole is
// false if some of what was there may have been missed, for the partition begins
// behind that offset, ends before it, or is not there at all.
func (c *Cluster) Tail(ctx context.Context, topic string, partition int32, from int64, each func(*kgo.Record) (enough bool)) (whole bool, err error) {
	info, err := c.topic(ctx, topic)
	if errors.Is(err, ErrNoTopic) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, is := info.Partitions[partition]; !is {
		return false, nil
	}
	ends, err := c.adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return false, fmt.Errorf("offsets of %s: %w", topic, err)
	}
	end, _ := ends.Lookup(topic, partition)
	if end.Offset < from {
		return false, nil
	}
	err = c.span(ctx, info, span{partition, from, end.Offset}, uncommitted, func(recs []*kgo.Record, _ int64) error {
		for _, r := range recs {
			if each(r) {
				return errEnough
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// Asked for last: what retention took meanwhile was not read.
	start, err := c.start(ctx, topic, partition)
	return start <= from, err
}
