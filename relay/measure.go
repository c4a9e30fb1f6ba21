package relay

// What the active relay measures of the outbox: the figures of `outbox status`.

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outboxMetrics are measured by the relay that is active, and 0 on
// all others: sum them over the relays of a source.
type outboxMetrics struct {
	backlog, oldest, open, leaves, bytes, scheduled prometheus.Gauge
	parked                                          *prometheus.GaugeVec // queue
}

func (r *Relay) measure(ctx context.Context) error {
	o, err := ReadOutbox(ctx, r.deps.DB, r.cfg.Source)
	if err != nil {
		return err
	}
	m := &r.metrics.outbox
	m.backlog.Set(float64(o.Backlog))
	m.oldest.Set(o.Oldest)
	m.leaves.Set(float64(o.Leaves))
	m.bytes.Set(float64(o.Bytes))
	m.scheduled.Set(float64(o.Scheduled))
	open := 0.0
	for i := range o.Open { // where a time is hidden, the next is the oldest that is known
		if t := o.Open[i].Since; !t.IsZero() {
			open = max(open, o.Now.Sub(t).Seconds())
		}
	}
	m.open.Set(open)
	m.parked.Reset()
	for queue, n := range o.Parked {
		m.parked.WithLabelValues(r.metrics.label(queue)).Add(float64(n))
	}
	return nil
}

// unmeasured says nothing any more: another relay may be active.
func (m *outboxMetrics) unmeasured() {
	for _, g := range []prometheus.Gauge{m.backlog, m.oldest, m.open, m.leaves, m.bytes, m.scheduled} {
		g.Set(0)
	}
	m.parked.Reset()
}

// measureEvery is how old the figures may be.
const measureEvery = 15 * time.Second

// runMeasure measures until ctx ends.
func (r *Relay) runMeasure(ctx context.Context) {
	defer r.metrics.outbox.unmeasured()
	for ctx.Err() == nil {
		if err := r.measure(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot measure the outbox, trying again", "cause", err)
		}
		sleep(ctx, min(measureEvery, r.cfg.Upkeep))
	}
}
