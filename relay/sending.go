package relay

// Records under way: what Kafka has answered so far, and which topics keep the
// others waiting.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sending is records that were given to a client. The records hold their partitions
// and offsets once they are acknowledged.
type sending struct {
	mu     sync.Mutex
	left   int // without an answer
	topics map[string]*tally
	acked  []*kgo.Record
	errs   map[*kgo.Record]error
	over   bool // what is answered from now on is not looked at

	lastTopic string // of the record that was looked up last
	last      *tally // topics[lastTopic]
}

// tally is what is known of one topic's records.
type tally struct {
	left   int
	failed bool
	seen   int       // left, when it was looked at
	since  time.Time // it has been so since then
}

// produce gives records to the client and waits for none.
func (p *producer) produce(ctx context.Context, records []*kgo.Record) *sending {
	s := &sending{left: len(records), topics: map[string]*tally{}, acked: make([]*kgo.Record, 0, len(records))}
	now := time.Now()
	for _, r := range records {
		y := s.tally(r.Topic)
		if y == nil {
			y = &tally{since: now}
			s.topics[r.Topic] = y
		}
		y.left++
	}
	answer := s.answer // made once
	for _, r := range records {
		p.cl.Produce(ctx, r, answer)
	}
	return s
}

// tally is that of a topic, nil if there is none. Most records have the topic of the
// one before.
func (s *sending) tally(topic string) *tally {
	if s.last == nil || s.lastTopic != topic {
		s.last, s.lastTopic = s.topics[topic], topic
	}
	return s.last
}

// answer is the promise of each record.
func (s *sending) answer(r *kgo.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	y := s.tally(r.Topic)
	s.left--
	y.left--
	if err == nil {
		s.acked = append(s.acked, r)
		return
	}
	y.failed = true
	if s.errs == nil {
		s.errs = map[*kgo.Record]error{}
	}
	s.errs[r] = err
}

// answered reports whether nothing is under way any more.
func (s *sending) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left == 0
}

// failed are the records that failed, once all are answered or the sending is over.
func (s *sending) failed() map[*kgo.Record]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errs
}

// end stops looking at answers and returns the records that had one.
func (s *sending) end() map[*kgo.Record]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	answered := make(map[*kgo.Record]struct{}, len(s.acked)+len(s.errs))
	for _, r := range s.acked {
		answered[r] = struct{}{}
	}
	for r := range s.errs {
		answered[r] = struct{}{}
	}
	return answered
}

// send produces records and waits for every answer, or until some topics are stuck:
// then the producer must not be used again, for what is under way stays so. err says
// that the wait itself ended, errUnsure that it took longer than a record may: then, too,
// the producer must not be used again.
func (p *producer) send(ctx context.Context, records []*kgo.Record, kafka *control) (s *sending, stuck []string, err error) {
	p.r.broker.begin()
	defer p.r.broker.end()
	began := time.Now()
	s = p.produce(ctx, records)
	waiting, cancel := context.WithCancel(ctx) // not the records' own: they are not to fail by it
	defer cancel()
	flushed := make(chan error, 1)
	go func() { flushed <- p.cl.Flush(waiting) }()
	tick := time.NewTicker(p.r.cfg.Patience / 8)
	defer tick.Stop()
	for {
		select {
		case err := <-flushed:
			if err != nil {
				return nil, nil, fmt.Errorf("kafka: wait for acknowledgements: %w", err)
			}
			if !s.answered() { // it would be taken as sent
				return nil, nil, errors.New("kafka: the client has forgotten a record")
			}
			return s, nil, nil
		case now := <-tick.C:
			stuck = s.stuck(now, p.r.cfg.Patience, func() bool { return kafka.takes(ctx, began) })
			unsure := now.Sub(began) > p.r.cfg.Delivery+p.r.cfg.Patience
			if stuck == nil && !unsure {
				continue
			}
			cancel()
			<-flushed //nolint:errcheck // it is the cancelling
			if stuck == nil {
				s.end()
				return nil, nil, errUnsure
			}
			return s, stuck, nil
		}
	}
}

// errUnsure: the client gives no record up whose outcome it does not know. A new one
// may do better, and what is read anew may have more than the topics that are stuck.
var errUnsure = errors.New("nothing is acknowledged")

// longPatience is how many times as long as a minority most topics may be stuck: a
// broker that died is replaced meanwhile (9 s by default), and nobody needs to be parked.
const longPatience = 5

// stuck are the topics that have acknowledged nothing for so long that they are broken,
// and not Kafka as a whole: as many others have taken all of theirs, or, in the
// end, any other. alive is asked where no topic can tell. Nil while anything still moves.
func (s *sending) stuck(now time.Time, patience time.Duration, alive func() bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, well, stuck := time.Duration(math.MaxInt64), 0, map[string]bool{}
	for name, y := range s.topics {
		switch {
		case y.left == 0 && !y.failed:
			well++
		case y.left == 0:
		case y.left != y.seen:
			y.seen, y.since, waiting = y.left, now, 0
		default:
			stuck[name], waiting = true, min(waiting, now.Sub(y.since))
		}
	}
	if len(stuck) == 0 || waiting < patience {
		return nil
	}
	if well == 0 && alive() {
		well = 1
	}
	if well < len(stuck) && (well == 0 || waiting < longPatience*patience) {
		return nil
	}
	return slices.Sorted(maps.Keys(stuck))
}

// giveUp parks what stuck topics have not acknowledged, and leaves the client that
// still tries it. What becomes of those records is not known: they may be appended
// yet, beside the ones that are made of the parked rows; see decision 0250.
func (t *term) giveUp(ctx context.Context, m *slab, s *sending, stuck []string) error {
	answered := s.end()
	whys := t.out.whyStuck(ctx, stuck)
	for i, rec := range m.records {
		if rec == nil {
			continue
		}
		if _, ok := answered[rec]; !ok {
			t.park(m.rows[i].queue, whys[rec.Topic])
			m.records[i], m.fates[i] = nil, fatePark
		}
	}
	m.lent = true
	return t.reopen()
}

// whyStuck asks what is wrong with topics that acknowledge nothing.
func (p *producer) whyStuck(ctx context.Context, names []string) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	whys := map[string]error{}
	for _, name := range names {
		whys[name] = p.r.broker.because(fmt.Errorf("it acknowledged nothing for %v, others did", p.r.cfg.Patience))
	}
	details, err := p.adm.ListTopics(kadm.WithAuthorizedOps(ctx), names...) // of the brokers, not of a cache
	if err != nil {
		return whys
	}
	wanted := p.inSyncWanted(ctx, names)
	for _, name := range names {
		if d, ok := details[name]; !ok || d.Err != nil || len(d.Partitions) == 0 {
			whys[name] = cmp.Or(d.Err, error(kerr.UnknownTopicOrPartition))
			continue
		}
		for _, d := range details[name].Partitions.Sorted() {
			if d.Leader < 0 {
				whys[name] = fmt.Errorf("partition %d has no leader", d.Partition)
				break
			}
			if n := wanted[name]; len(d.ISR) < n {
				whys[name] = fmt.Errorf("partition %d has %d of %d required replicas in sync", d.Partition, len(d.ISR), n)
				break
			}
		}
	}
	return whys
}
