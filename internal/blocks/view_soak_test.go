//go:build soak

package blocks

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// Sync waits for the topic's last record, so it must be there, also if it is a
// tombstone whose time is over: it stands in the active segment, which is not cleaned.
func TestSoakTheLastRecordOutlivesCompaction(t *testing.T) {
	set := func(s string) *string { return &s }
	topic, opts, cl := control(t, map[string]*string{
		"cleanup.policy": set("compact"), "segment.ms": set("200"), "delete.retention.ms": set("0"),
		"min.cleanable.dirty.ratio": set("0"), "max.compaction.lag.ms": set("200"),
	})
	const n = 8
	for range n / 2 {
		for _, r := range []*kgo.Record{stand(t, "jobs", "main-1-1@0"), End("jobs", "main-1-1@0")} {
			put(t, cl, topic, r)
			time.Sleep(400 * time.Millisecond) // the next one begins a segment
		}
	}
	var left []int64
	testkit.Eventually(t, 5*time.Minute, func() (bool, string) {
		left = offsets(t, topic, opts, n)
		return len(left) <= 2, "nothing is cleaned yet"
	})
	time.Sleep(time.Minute) // the cleaner comes by every 15 s
	left = offsets(t, topic, opts, n)
	t.Logf("offsets %v are left of %d", left, n)
	if !slices.Contains(left, n-1) {
		t.Errorf("the last record is gone")
	}
	if err := synced(t, view(t, topic, opts), time.Minute); err != nil {
		t.Error(err)
	}
}

// offsets are those that the topic still has, of its first n.
func offsets(t *testing.T, topic string, opts []kgo.Opt, n int64) (list []int64) {
	t.Helper()
	cl, err := kgo.NewClient(append(opts[:len(opts):len(opts)], kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil && (len(list) == 0 || list[len(list)-1] < n-1) {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { list = append(list, r.Offset) })
	}
	return list
}
