package relay

// What Prometheus sees. Labels come from the catalog, or are few and fixed.

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	active, halted, lag, dueLag      prometheus.Gauge
	rows                             *prometheus.CounterVec // queue, fate
	passes                           prometheus.Histogram
	flushes, leaseLost, upkeepErrors prometheus.Counter
	produceErrors                    *prometheus.CounterVec // class
	parked                           *prometheus.GaugeVec   // queue
	moved                            *prometheus.CounterVec // tier
	garbage, outOfRange, recurring   prometheus.Counter
	nudges                           prometheus.Counter
	outbox                           outboxMetrics
	label                            func(queue string) string
}

func newMetrics(reg prometheus.Registerer, queues []string) (*metrics, error) {
	const ns, sub = "perdure", "relay"
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	m := &metrics{
		active: gauge("active", "1 while this process holds the source's lease and relays."),
		halted: gauge("halted", "1 after the relay halted: a person must decide."),
		lag:    gauge("lag_seconds", "Age of the oldest row of the last pass when it was read; 0 when the outbox is empty."),
		dueLag: gauge("due_lag_seconds", "How late the scheduled tasks are that go out now; 0 when no more than a share of a chunk is due."),
		rows:   counters("rows_total", "Outbox rows by what became of them: sent, dead, scheduled, parked.", "queue", "fate"),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "pass_seconds", Help: "From a chunk that is read, or is to be read, until the cursor is moved and the next chunk is here.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		flushes:       counter("flushes_total", "Passes that had to flush WAL before they could produce."),
		upkeepErrors:  counter("upkeep_errors_total", "Failures to make or empty partitions of the outbox."),
		leaseLost:     counter("lease_lost_total", "Terms that ended because another relay took the lease, or may have."),
		produceErrors: counters("produce_errors_total", "Passes that Kafka did not take, by class.", "class"),
		parked: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "parked", Help: "1 while a queue's topic is broken and its rows are parked.",
		}, []string{"queue"}),
		moved:      counters("retries_moved_total", "Records moved on from a delay topic.", "tier"),
		garbage:    counter("retries_garbage_total", "Records of delay topics that named no queue and became dead letters."),
		recurring:  counter("schedule_tasks_total", "Tasks that were filed because the catalog's schedule said so."),
		nudges:     counter("nudges_total", "Records that are no tasks, produced onto shared queues whose lag stands still: Kafka counts finished records as left at times."),
		outOfRange: counter("retries_out_of_range_total", "Partitions of delay topics that stopped because their offset is out of range."),
	}
	m.outbox = outboxMetrics{
		backlog:   gauge("backlog_tasks", "Committed rows of the outbox that are not relayed, counted up to 100000."),
		oldest:    gauge("backlog_seconds", "Age of the oldest of them; 0 when there is none."),
		open:      gauge("open_transaction_seconds", "Age of the oldest transaction in progress that has an id: its rows are not there yet, and a partition that it has read or written cannot be emptied."),
		leaves:    gauge("outbox_partitions", "Partitions of the outbox."),
		bytes:     gauge("outbox_bytes", "Size of the outbox on disk, with its indexes."),
		scheduled: gauge("scheduled_tasks", "Tasks that wait for their time, counted up to 100000."),
		parked: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "parked_tasks", Help: "Tasks that are parked because their queue's topic takes nothing.",
		}, []string{"queue"}),
	}
	known := make(map[string]bool, len(queues))
	for _, q := range queues {
		known[q] = true
	}
	m.label = func(queue string) string {
		if known[queue] {
			return queue
		}
		return "other"
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.active, m.halted, m.lag, m.dueLag, m.rows, m.passes, m.flushes, m.leaseLost, m.upkeepErrors,
		m.produceErrors, m.parked, m.moved, m.garbage, m.outOfRange, m.recurring, m.nudges, m.outbox.backlog, m.outbox.oldest, m.outbox.open,
		m.outbox.leaves, m.outbox.bytes, m.outbox.scheduled, m.outbox.parked} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("relay: register metrics: %w", err)
		}
	}
	return m, nil
}

// read records how long the oldest row of a window has waited.
func (m *metrics) read(w *window) {
	oldest := w.now
	for i := range w.rows {
		if c := w.rows[i].created; c.Before(oldest) {
			oldest = c
		}
	}
	m.lag.Set(w.now.Sub(oldest).Seconds())
}

// pass records one that has moved the cursor.
func (m *metrics) pass(d *delivery, took time.Duration) {
	m.passes.Observe(took.Seconds())
	m.count(d)
}

// count counts rows by queue and fate, runs of equal ones at once.
func (m *metrics) count(d *delivery) {
	for i := 0; i < len(d.rows); {
		n := i + 1
		for n < len(d.rows) && d.rows[n].queue == d.rows[i].queue && d.fates[n] == d.fates[i] {
			n++
		}
		m.rows.WithLabelValues(m.label(d.rows[i].queue), d.fates[i].String()).Add(float64(n - i))
		i = n
	}
}
