package dispatcher

// What the dispatcher counts. Labels come from the catalog or from a fixed set.

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	accepted  *prometheus.CounterVec // by kind
	replayed  prometheus.Counter
	duplicate prometheus.Counter
	refused   *prometheus.CounterVec // by problem
	batch     prometheus.Histogram
	commit    prometheus.Histogram
	waiting   prometheus.GaugeFunc
}

// newMetrics registers with reg, also more; nil registers nothing.
func newMetrics(reg prometheus.Registerer, waiting func() float64, more ...prometheus.Collector) (*metrics, error) {
	m := &metrics{
		accepted:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perdure_dispatcher_accepted_tasks_total", Help: "Tasks accepted over HTTP; replayed ones do not count."}, []string{"kind"}),
		replayed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "perdure_dispatcher_replayed_tasks_total", Help: "Requests whose idempotency key was known."}),
		duplicate: prometheus.NewCounter(prometheus.CounterOpts{Name: "perdure_dispatcher_duplicate_tasks_total", Help: "Requests whose unique key another task held."}),
		refused:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perdure_dispatcher_refused_tasks_total", Help: "Tasks not accepted, by problem."}, []string{"problem"}),
		batch:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "perdure_dispatcher_batch_tasks", Help: "Tasks of one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		commit:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "perdure_dispatcher_commit_seconds", Help: "Time to write and commit one transaction.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		waiting:   prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "perdure_dispatcher_waiting_bytes", Help: "Bytes of posts that are not answered yet; of each 8 KiB at least, of NDJSON none."}, waiting),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range append([]prometheus.Collector{m.accepted, m.replayed, m.duplicate, m.refused, m.batch, m.commit, m.waiting}, more...) {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
