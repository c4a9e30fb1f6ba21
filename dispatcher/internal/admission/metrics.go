package admission

// What the gate says of itself. Labels are the names of the token file, as far as
// they have a quota and have asked.

import "github.com/prometheus/client_golang/prometheus"

var (
	descClosed  = prometheus.NewDesc("perdure_dispatcher_admission_closed", "1 while posts are refused because of the outbox's backlog, else 0.", nil, nil)
	descLimit   = prometheus.NewDesc("perdure_dispatcher_outbox_limit_tasks", "PERDURE_OUTBOX_LIMIT; 0 is none.", nil, nil)
	descBacklog = prometheus.NewDesc("perdure_dispatcher_outbox_backlog_tasks", "Outbox rows that wait for the relay, as measured last: counted up to 100000, estimated beyond; 0 without a limit.", nil, nil)
	descQuota   = prometheus.NewDesc("perdure_dispatcher_quota_left_tasks", "Tasks left of today's quota, as this dispatcher knew when it asked last.", []string{"token"}, nil)
)

// Describe implements prometheus.Collector.
func (g *Gate) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descClosed, descLimit, descBacklog, descQuota} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *Gate) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	rows, opens := g.backlog.state()
	closed := 0.0
	if opens != nil {
		closed = 1
	}
	gauge(descClosed, closed)
	gauge(descLimit, float64(g.backlog.limit))
	gauge(descBacklog, float64(rows))
	today := g.now().UTC().Format(dayFormat)
	for _, p := range g.all() {
		if p.quota != nil {
			gauge(descQuota, float64(p.quota.remains(today)), p.name)
		}
	}
}

func (q *quota) remains(today string) int64 {
	q.turn <- struct{}{}
	defer func() { <-q.turn }()
	if q.day != today {
		return q.limit
	}
	return max(0, q.limit-q.known) + q.left
}
