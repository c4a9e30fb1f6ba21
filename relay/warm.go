package relay

// A standby warms up: what the first pass of a term would otherwise have to open,
// ask for and plan while tasks wait for it. All of it may fail without harm: then
// the term does it, and says what is wrong.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/relaylog"
)

// warmEvery is how often a standby does so again: brokers close idle connections, and
// answers about topics grow old.
const warmEvery = topicWell

// noFence is the fence of no term: what is asked under it finds and changes nothing.
const noFence = 0

// open makes the clients of a term. They connect when they are first used.
func (t *term) open() (err error) {
	if t.side, err = kgo.NewClient(append(append([]kgo.Opt{}, t.r.deps.Kafka...), kgo.RequiredAcks(kgo.AllISRAcks()))...); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	t.out, err = t.r.newProducer(newTopics(), kgo.ManualFlushing())
	return err
}

// close ends what is under way; a second call does nothing.
func (t *term) close() {
	if t.out != nil {
		t.out.close()
	}
	if t.side != nil {
		t.side.Close()
	}
	t.out, t.side = nil, nil
}

// rehearse runs the statements of a pass under no fence, so that the session has
// them planned.
func (t *term) rehearse(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, t.r.cfg.LeaseTTL)
	defer cancel()
	as := &term{r: t.r, conn: t.conn, fence: noFence}
	if rows, err := as.conn.Query(ctx, t.r.sql.window, pgx.QueryResultFormats{pgx.BinaryFormatCode}, t.r.cfg.Source, as.fence, as.place, false, 1, as.bound()); err == nil {
		rows.Close()
	}
	c := as.commit(moveBeyond, firstSnapshot)
	c.log(&delivery{hops: []relaylog.Hop{{}}})
	if err := c.runAndRead(ctx, c.andWindow(), unread); err != nil && !errors.Is(err, errLeaseLost) {
		t.r.log.Debug("a standby could not rehearse a pass", "cause", err)
	}
}

func unread(rows pgx.Rows) error {
	rows.Close()
	return rows.Err()
}

// keepWarm has the clients connected to Kafka, and the topics of all queues known,
// until stop returns: then they are the caller's, or new ones where Kafka keeps one of
// them waiting, whatever their context says.
func (t *term) keepWarm(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	out, side := t.out, t.side
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := warm(ctx, out, side); err != nil && ctx.Err() == nil {
				t.r.log.Debug("a standby could not reach Kafka", "cause", err)
			}
			sleep(ctx, warmEvery)
		}
	}()
	return func() error {
		cancel()
		select {
		case <-done:
			return nil
		case <-time.After(t.r.cfg.Standby):
		}
		t.close()
		<-done
		return t.open()
	}
}

func warm(ctx context.Context, out *producer, side *kgo.Client) error {
	names := map[string]struct{}{}
	for _, q := range out.r.deps.Catalog.QueueNames() {
		names[out.r.deps.Names.Tasks(q)], names[out.r.deps.Names.DLQ(q)] = struct{}{}, struct{}{}
	}
	if err := out.ask(ctx, names); err != nil {
		return err
	}
	_, _, err := out.cl.ProducerID(ctx)
	if err == nil {
		err = out.cl.EnsureProduceConnectionIsOpen(ctx)
	}
	if err == nil {
		_, err = kadm.NewClient(side).ListEndOffsets(ctx, out.r.deps.Names.Control())
	}
	return err
}
