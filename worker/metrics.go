package worker

// perdure_worker_*: labels only from the catalog, so their number is bounded.

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/worker/internal/execution"
)

type metrics struct {
	attempts      *prometheus.CounterVec
	attemptTime   *prometheus.HistogramVec
	done          *prometheus.CounterVec
	retries       *prometheus.CounterVec
	letters       *prometheus.CounterVec
	waiting       *prometheus.CounterVec
	verdicts      *prometheus.CounterVec
	abandoned     *prometheus.CounterVec
	reconciled    *prometheus.CounterVec
	cancelled     *prometheus.CounterVec
	isolated      *prometheus.CounterVec
	halted        *prometheus.CounterVec
	hopErrors     *prometheus.CounterVec
	shareErrors   *prometheus.CounterVec
	shareCopies   *prometheus.CounterVec
	shareAside    *prometheus.CounterVec
	shareLocked   *prometheus.GaugeVec
	breaker       *prometheus.GaugeVec
	blocked       *prometheus.GaugeVec
	eventErrors   prometheus.Counter
	commits       prometheus.Counter
	commitErrors  prometheus.Counter
	redisLost     prometheus.Counter
	removals      prometheus.Counter
	removed       prometheus.Counter
	beatSeconds   prometheus.Histogram
	redisUp       prometheus.Gauge
	running       prometheus.Gauge
	held          *prometheus.GaugeVec
	parked        prometheus.Gauge
	claimSeconds  prometheus.Histogram
	settleSeconds prometheus.Histogram
	handles       map[string]*attemptHandles    // loop only: saves the label lookup
	granted       map[string]prometheus.Counter // by queue; likewise
}

type attemptHandles struct {
	done     prometheus.Counter
	outcomes [execution.Outcomes]prometheus.Counter
	seconds  prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perdure_worker_" + name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "perdure_worker_" + name, Help: help})
	}
	histogram := func(name, help string, lowest float64, n int) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: "perdure_worker_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(lowest, 2.5, n)}
	}
	m := &metrics{
		attempts:      counter("attempts_total", "Attempts that ended, by outcome.", "kind", "outcome"),
		attemptTime:   prometheus.NewHistogramVec(histogram("attempt_duration_seconds", "Time of an attempt.", 0.0005, 13), []string{"kind"}),
		done:          counter("completed_total", "Tasks completed.", "kind"),
		retries:       counter("retries_produced_total", "Records written to delay topics.", "kind"),
		letters:       counter("dead_letters_total", "Dead letters written.", "queue", "reason"),
		waiting:       counter("waits_total", "Times that a task began to wait for something that is not its backoff.", "queue", "reason"),
		verdicts:      counter("claims_total", "Answers of the claim store.", "queue", "verdict"),
		abandoned:     counter("abandoned_total", "Handlers that ignored the end of their context.", "kind"),
		reconciled:    counter("reconciled_total", "Answers of reconcile hooks, by verdict; error = none.", "kind", "verdict"),
		cancelled:     counter("cancelled_total", "Running tasks that ended because somebody asked.", "kind"),
		isolated:      counter("isolations_total", "Times that a task ran alone because its workers had died while they ran it.", "kind"),
		halted:        counter("partitions_halted_total", "Partitions halted because Kafka no longer has their records.", "queue"),
		hopErrors:     counter("produce_errors_total", "Records of retries and letters that Kafka refused.", "queue"),
		shareErrors:   counter("shared_answers_late_total", "Answers for records of shared queues that Kafka did not take: it gives those records out again.", "queue"),
		shareCopies:   counter("shared_produced_again_total", "Records of shared queues that were produced once more because Kafka had given them out often.", "queue"),
		shareAside:    counter("shared_set_aside_total", "Records of shared queues that were sent through a delay topic because they could not start.", "queue"),
		shareLocked:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "perdure_worker_shared_locked", Help: "Records of a shared queue that this worker has in hand and keeps locked."}, []string{"queue"}),
		breaker:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "perdure_worker_breaker_open", Help: "1 while the endpoint of a kind is held to be misconfigured."}, []string{"kind"}),
		blocked:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "perdure_worker_blocks", Help: "Dead letters of a queue that block their key (on_dead: block), as far as this worker has read; each worker reads all of them."}, []string{"queue"}),
		eventErrors:   single("event_errors_total", "Events that were not written."),
		commits:       single("commits_total", "Offset commits."),
		commitErrors:  single("commit_errors_total", "Offset commits that failed."),
		redisLost:     single("redis_lost_total", "Times that Redis lost its claims."),
		removals:      single("removals_total", "Other workers that this one had removed because they fell silent."),
		removed:       single("removed_total", "Times that this worker was removed by others while it was away."),
		beatSeconds:   prometheus.NewHistogram(histogram("beat_duration_seconds", "Time of a beat, with its look at the others.", 0.0001, 12)),
		redisUp:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "perdure_worker_redis_up", Help: "0 while Redis does not answer and nothing starts."}),
		held:          prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "perdure_worker_low_watermark_held_seconds", Help: "For how long the same record has been the oldest unfinished one of its partition: the longest of the queue's partitions."}, []string{"queue"}),
		running:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "perdure_worker_running", Help: "Attempts that run now."}),
		parked:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "perdure_worker_parked", Help: "Records that wait in this worker for a time: a backoff, another owner, a due time."}),
		claimSeconds:  prometheus.NewHistogram(histogram("claim_duration_seconds", "Time of a claim call.", 0.0001, 12)),
		settleSeconds: prometheus.NewHistogram(histogram("settle_duration_seconds", "Time of a call that writes outcomes.", 0.0001, 12)),
		handles:       map[string]*attemptHandles{},
		granted:       map[string]prometheus.Counter{},
	}
	m.redisUp.Set(1)
	for _, c := range []prometheus.Collector{
		m.attempts, m.attemptTime, m.done, m.retries, m.letters, m.waiting, m.verdicts, m.abandoned, m.isolated, m.cancelled, m.reconciled, m.halted,
		m.hopErrors, m.shareErrors, m.shareCopies, m.shareAside, m.shareLocked, m.breaker, m.blocked, m.eventErrors, m.commits, m.commitErrors, m.redisLost, m.removals, m.removed, m.beatSeconds, m.redisUp, m.held, m.running, m.parked, m.claimSeconds, m.settleSeconds,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// attempt counts one attempt; kind is from the catalog.
func (m *metrics) attempt(kind string, o execution.Outcome, took time.Duration) {
	h := m.of(kind)
	if int(o) < len(h.outcomes) && h.outcomes[o] != nil {
		h.outcomes[o].Inc()
	}
	h.seconds.Observe(took.Seconds())
}

// run counts a grant.
func (m *metrics) run(queue string) {
	c := m.granted[queue]
	if c == nil {
		c = m.verdicts.WithLabelValues(queue, verdictName(claims.VerdictRun))
		m.granted[queue] = c
	}
	c.Inc()
}

func (m *metrics) of(kind string) *attemptHandles {
	h := m.handles[kind]
	if h == nil {
		h = &attemptHandles{seconds: m.attemptTime.WithLabelValues(kind), done: m.done.WithLabelValues(kind)}
		for i := execution.Completed; i <= execution.Misconfigured; i++ {
			h.outcomes[i] = m.attempts.WithLabelValues(kind, i.String())
		}
		m.handles[kind] = h
	}
	return h
}
