//go:build soak

package loadtest

// What was seen of a heap: in the relay's log, on Kafka, and of the relays' memory.

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// batches tells from the relay's log how the heap went out.
func (h *heap) batches(due time.Time) {
	var n, rows, most int64
	var gap, longest float64
	err := h.db.QueryRow(context.Background(), `
with c as (select sum(tasks) as tasks, max(relayed_at) as at from perdure.relay_log where relayed_at > $1 and last_id <= $2 group by xmin::text),
b as (select tasks, at - lag(at) over (order by at) as gap from c)
select count(*), coalesce(sum(tasks), 0), coalesce(max(tasks), 0),
  coalesce(percentile_cont(0.5) within group (order by extract(epoch from gap)), 0)::float8, coalesce(extract(epoch from max(gap)), 0)::float8 from b`,
		due, h.last).Scan(&n, &rows, &most, &gap, &longest)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Logf("%d batches with %d rows of the heap, at most %d; from one to the next %.0f ms (median), %.0f ms at most", n, rows, most, gap*1000, longest*1000)
}

// judge reads everything from Kafka, counts each id and prints the table.
func (h *heap) judge(phases []phase, due time.Time, kill bool) {
	t := h.t
	seen := make([]uint8, h.last-h.first+1)
	heap, distinct, repeats := 0, 0, 0
	live := map[int64]time.Time{} // seq → first append
	var begun, ended time.Time
	h.read(func(seq int64, rec *kgo.Record) {
		if _, ok := h.live[seq]; ok {
			if at, again := live[seq]; !again || rec.Timestamp.Before(at) {
				live[seq] = rec.Timestamp
			}
			return
		}
		if seq < h.first || seq > h.last {
			t.Errorf("record of %d, which nobody enqueued", seq)
			return
		}
		heap++
		if seen[seq-h.first]++; seen[seq-h.first] > 1 {
			repeats++
			return
		}
		distinct++
		if rec.Timestamp.Before(due) {
			t.Errorf("%d went out %v before the heap was due", seq, due.Sub(rec.Timestamp))
		}
		if begun.IsZero() || rec.Timestamp.Before(begun) {
			begun = rec.Timestamp
		}
		if rec.Timestamp.After(ended) {
			ended = rec.Timestamp
		}
	}, func() bool { return distinct >= h.n && len(live) >= len(h.live) })
	if distinct != h.n || (repeats > 0 && !kill) {
		t.Errorf("%d of %d tasks of the heap have a record, %d have more than one", distinct, h.n, repeats)
	}
	t.Logf("heap: %d tasks, %d records (%d repeated); first %v after it was due, last after %v: %.0f tasks/s", distinct, heap, repeats,
		begun.Sub(due).Round(time.Millisecond), ended.Sub(due).Round(time.Millisecond), float64(h.n)/ended.Sub(begun).Seconds())
	for _, p := range phases {
		var took []float64
		for seq, committed := range h.live {
			if !committed.Before(p.begin) && committed.Before(p.end) {
				took = append(took, max(0, live[seq].Sub(committed).Seconds()*1000))
			}
		}
		t.Logf("%-8s %6.1f s, WAL %5d MiB | %6d live tasks, commit to record: p50 %5.0f ms, p99 %5.0f ms, max %5.0f ms", p.name,
			p.end.Sub(p.begin).Seconds(), p.wal>>20, len(took), quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1))
	}
}

// read gives every record of both topics to see until done.
func (h *heap) read(see func(int64, *kgo.Record), done func() bool) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.Kafka.Brokers...), kgo.ConsumeTopics(h.Kafka.Prefix+"tasks.heap", h.Kafka.Prefix+"tasks.live"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		h.t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(h.t.Context(), h.Kafka.Prefix+"tasks.heap", h.Kafka.Prefix+"tasks.live")
	if err != nil {
		h.t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Minute)
	defer cancel()
	for left > 0 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			left--
			for _, x := range r.Headers {
				if x.Key == schemas.HeaderID {
					id, err := schemas.ParseID(string(x.Value))
					if err != nil {
						h.t.Error(err)
					}
					see(id.Seq, r)
				}
			}
		})
	}
	if !done() {
		h.t.Errorf("%d records were not read, or some tasks have none", left)
	}
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

// memory is the resident set of relays, looked at all the time.
type memory struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	names  []string
	most   []int64 // KiB
}

func watchMemory(relays []*role) *memory {
	ctx, cancel := context.WithCancel(context.Background())
	m := &memory{cancel: cancel, most: make([]int64, len(relays))}
	for _, r := range relays {
		m.names = append(m.names, r.name)
	}
	m.wg.Go(func() {
		for ctx.Err() == nil {
			for i, r := range relays {
				m.most[i] = max(m.most[i], resident(r.cmd.Process.Pid))
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return m
}

func (m *memory) stop() { m.cancel(); m.wg.Wait() }

func (m *memory) String() string {
	var b strings.Builder
	for i, name := range m.names {
		fmt.Fprintf(&b, "%s at most %d MiB ", name, m.most[i]>>10)
	}
	return b.String()
}

// resident is VmRSS in KiB; 0 = the process is gone.
func resident(pid int) (kib int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}
