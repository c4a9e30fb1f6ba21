package demo

// Waiting until the workflow has come to rest, and the last word of the ledger.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/kafka"
)

// standing is how far the workflow is, by its tables.
type standing struct {
	taken, paid, open, replaying int
}

func (w *world) standing(ctx context.Context) (s standing, err error) {
	err = w.db.QueryRow(ctx, `select (select count(*) from disputes.disputes), (select count(distinct dispute_id) from disputes.refunds),
		(select count(*) from perdure.letter_states where state in ('open', 'held')), (select count(*) from perdure.letter_states where state = 'replaying')`).
		Scan(&s.taken, &s.paid, &s.open, &s.replaying)
	if err != nil {
		return s, fmt.Errorf("look at the workflow's tables: %w", err)
	}
	return s, nil
}

// watch shows the standing until stop is called.
func (w *world) watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if s, err := w.standing(ctx); err == nil {
				c := w.bank.Counts()
				w.say.status("taken in %d · refunded %d · dead %d · being replayed %d · bank: %d calls, %d × 503, %d × 422",
					s.taken, s.paid, s.open, s.replaying, c.Calls, c.Unavailable, c.Wrong)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// settle waits until every accepted dispute is refunded or has an open letter.
// Where nothing moves for a while it gives up waiting, without an error: what
// is missing then, the ledger says.
func (w *world) settle(ctx context.Context, accepted int) error {
	var last standing
	moved := time.Now()
	for {
		s, err := w.standing(ctx)
		if err != nil {
			return err
		}
		if s.paid+s.open >= accepted && s.replaying == 0 {
			return nil
		}
		if s != last {
			last, moved = s, time.Now()
		}
		if time.Since(moved) > w.opts.Patience {
			w.say.linef("nothing moves any more: %d accepted, %d refunded, %d dead, %d being replayed", accepted, s.paid, s.open, s.replaying)
			return nil
		}
		if err := w.pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// drained waits until every record is acknowledged: those that a killed worker
// held come again, and must not be paid again, before the ledger is asked.
func (w *world) drained(ctx context.Context) error {
	cat, err := disputes.Catalog()
	if err != nil {
		return err
	}
	names := kafka.Names{Prefix: w.cfg.KafkaTopicPrefix}
	var groups []string
	for _, q := range cat.QueueNames() {
		groups = append(groups, names.WorkerGroup(q))
	}
	begun := time.Now()
	for {
		lags, err := w.admin.Lag(ctx, groups...)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
			return fmt.Errorf("ask how much is not acknowledged: %w", err)
		}
		var left int64
		for _, l := range lags {
			err := l.Error()
			if errors.Is(err, kerr.GroupIDNotFound) {
				continue // nothing ever arrived on its queue
			}
			if err != nil {
				return fmt.Errorf("ask how much is not acknowledged: %w", err)
			}
			left += l.Lag.Total()
		}
		if left == 0 {
			return nil
		}
		if time.Since(begun) > w.opts.Patience {
			w.say.linef("%d records are still not acknowledged", left)
			return nil
		}
		if err := w.pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// balance shows Perdure's own account, of tasks, beside the ledger's, of
// disputes. The exit code does not depend on it.
func (w *world) balance(ctx context.Context) error {
	cat, err := disputes.Catalog()
	if err != nil {
		return err
	}
	r, err := app.Balance(ctx, w.cfg, cat, time.Time{})
	if err != nil {
		return err
	}
	w.say.linef("perdure balance, of tasks: %s", r.Line())
	for _, l := range r.LostIDs {
		w.say.linef("  lost: %s: %s", l.ID, l.Why)
	}
	return nil
}

// audit asks the ledger, on a connection of its own.
func (w *world) audit(ctx context.Context, accepted []disputes.Accepted) (disputes.Ledger, error) {
	conn, err := pgx.Connect(ctx, w.cfg.PostgresURL)
	if err != nil {
		return disputes.Ledger{}, fmt.Errorf("open the ledger: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read from
	return disputes.Audit(ctx, conn, accepted)
}
