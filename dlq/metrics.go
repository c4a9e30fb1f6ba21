package dlq

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the Index; the label record is letter, resolved, event, released or stray.
type metrics struct {
	indexed  *prometheus.CounterVec
	skipped  prometheus.Counter
	failures prometheus.Counter
	gaps     prometheus.Counter
	pruned   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "perdure_dlq_" + name, Help: help})
	}
	m := &metrics{
		indexed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perdure_dlq_indexed_records_total", Help: "Records of dead-letter and event topics that were read, by what they were; foreign ones are another source's, and left to its index."}, []string{"record"}),
		skipped:  counter("skipped_records_total", "Records of event topics that are no events, or that Postgres cannot hold."),
		failures: counter("store_failures_total", "Batches that Postgres did not take; they are tried again."),
		gaps:     counter("lost_records_total", "Records that retention deleted before they were indexed."),
		pruned:   counter("pruned_rows_total", "Rows removed from the index by age."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.indexed, m.skipped, m.failures, m.gaps, m.pruned} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("dlq index: metrics: %w", err)
		}
	}
	return m, nil
}

// stored counts a batch that is committed.
func (m *metrics) stored(b *batch) {
	m.indexed.WithLabelValues("letter").Add(float64(len(b.letters) - b.strays))
	m.indexed.WithLabelValues("stray").Add(float64(b.strays))
	m.indexed.WithLabelValues("resolved").Add(float64(len(b.resolved)))
	m.indexed.WithLabelValues("event").Add(float64(len(b.events)))
	m.indexed.WithLabelValues("released").Add(float64(len(b.ended) - len(b.resolved)))
	m.indexed.WithLabelValues("foreign").Add(float64(b.foreign))
	m.skipped.Add(float64(b.skipped))
}
