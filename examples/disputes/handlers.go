package disputes

// The workflow: three handlers, each a few lines and one transaction.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/worker"
	"github.com/perdure/perdure/worker/inbox"
)

// Dispute is the payload of intake and investigation; see schemas/dispute.json.
type Dispute struct {
	DisputeID   string   `json:"dispute_id"`
	ChargeID    string   `json:"charge_id"`
	AmountCents int64    `json:"amount_cents"`
	Currency    string   `json:"currency"`
	Reason      string   `json:"reason"`
	Evidence    []string `json:"evidence"`
	Customer    string   `json:"customer,omitempty"`
	Opened      string   `json:"opened,omitempty"`
}

// Decision is the payload of the resolution; see schemas/decision.json.
type Decision struct {
	DisputeID   string `json:"dispute_id"`
	AmountCents int64  `json:"amount_cents"`
	Currency    string `json:"currency"`
}

// Workflow is what the handlers share. It keeps nothing of a task.
type Workflow struct {
	db    *pgxpool.Pool
	tasks *client.Client
	bank  *BankClient
}

// NewWorkflow returns a Workflow on db, which has Perdure's schema and the
// example's tables. It closes neither.
func NewWorkflow(ctx context.Context, db *pgxpool.Pool, bank *BankClient) (*Workflow, error) {
	tasks, err := client.New(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("disputes: %w", err)
	}
	return &Workflow{db: db, tasks: tasks, bank: bank}, nil
}

// Register gives w the three handlers.
func (f *Workflow) Register(w *worker.Worker) {
	worker.Handle(w, KindIntake, f.intake)
	worker.Handle(w, KindInvestigate, f.investigate)
	worker.Handle(w, KindResolve, f.resolve)
}

// intake stores the dispute and asks for its investigation: both or neither,
// and once, however often this runs.
func (f *Workflow) intake(ctx context.Context, t *worker.Task[Dispute]) error {
	d := t.Payload
	return f.once(ctx, t, "intake", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into disputes.disputes (dispute_id, charge_id, amount_cents, currency, reason, evidence) values ($1, $2, $3, $4, $5, $6)`,
			d.DisputeID, d.ChargeID, d.AmountCents, d.Currency, d.Reason, d.Evidence)
		if err != nil {
			return fmt.Errorf("store dispute: %w", err)
		}
		_, err = f.tasks.EnqueueTx(ctx, tx, client.Task{Kind: KindInvestigate, Key: d.DisputeID, Payload: d})
		return err
	})
}

// investigate asks the bank, outside any transaction; the decision is enqueued
// once, though the bank may be asked many times.
func (f *Workflow) investigate(ctx context.Context, t *worker.Task[Dispute]) error {
	d := t.Payload
	// The bug that makes some disputes poison: nobody thought of none at all.
	proof := d.Evidence[0]
	charge, err := f.bank.Charge(ctx, d.ChargeID)
	if err != nil {
		return err
	}
	if !charge.Refundable {
		return worker.Permanent(fmt.Errorf("charge is %s: nothing to refund on the strength of %q", charge.State, proof))
	}
	return f.once(ctx, t, "decide", func(ctx context.Context, tx pgx.Tx) error {
		decision := Decision{DisputeID: d.DisputeID, AmountCents: d.AmountCents, Currency: d.Currency}
		_, err := f.tasks.EnqueueTx(ctx, tx, client.Task{Kind: KindResolve, Key: d.DisputeID, Payload: decision})
		return err
	})
}

// resolve pays back. Refund and inbox record commit together: that, and no
// constraint of the table, is why nobody is paid twice.
func (f *Workflow) resolve(ctx context.Context, t *worker.Task[Decision]) error {
	d := t.Payload
	return f.once(ctx, t, "refund", func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into disputes.refunds (dispute_id, amount_cents, currency, task_id, run) values ($1, $2, $3, $4, $5)`,
			d.DisputeID, d.AmountCents, d.Currency, t.ID, t.Run)
		return err
	})
}

// once runs fn in a transaction whose effect is applied at most once a task.
func (f *Workflow) once(ctx context.Context, t inbox.Task, step string, fn func(context.Context, pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, f.db, func(tx pgx.Tx) error {
		return inbox.Do(ctx, tx, t, step, func(ctx context.Context) error { return fn(ctx, tx) })
	})
}
