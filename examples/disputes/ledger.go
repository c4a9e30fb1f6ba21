package disputes

// The independent ledger: what was accepted against what was paid.

import (
	"context"
	_ "embed" // ledger.sql
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed ledger.sql
var ledgerSQL string

// Accepted is one line of input that the dispatcher said yes to, as the
// producer noted it: not read back from any table.
type Accepted struct {
	DisputeID   string
	AmountCents int64
	Currency    string
}

// Ledger is what the audit found. Accepted = Completed + Dead + Lost, always.
type Ledger struct {
	Accepted    int `json:"accepted"`          // disputes accepted
	Completed   int `json:"completed"`         // of them, paid at least once
	Dead        int `json:"dead"`              // of them, not paid, with an open dead letter
	Lost        int `json:"lost"`              // of them, neither: must be 0
	Duplicates  int `json:"duplicate_effects"` // payments beyond the first, or for nothing accepted: must be 0
	Wrong       int `json:"wrong_amounts"`     // paid with another amount or currency: must be 0
	PaidAndOpen int `json:"paid_and_open"`     // paid, yet with an open letter: must be 0
}

// Audit computes the ledger on conn by plain SQL, in one transaction. The ids
// of accepted must differ.
func Audit(ctx context.Context, conn *pgx.Conn, accepted []Accepted) (Ledger, error) {
	var l Ledger
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		const table = `create temp table accepted (dispute_id text primary key, amount_cents bigint not null, currency text not null) on commit drop`
		if _, err := tx.Exec(ctx, table); err != nil {
			return err
		}
		rows := pgx.CopyFromSlice(len(accepted), func(i int) ([]any, error) {
			a := accepted[i]
			return []any{a.DisputeID, a.AmountCents, a.Currency}, nil
		})
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"accepted"}, []string{"dispute_id", "amount_cents", "currency"}, rows); err != nil {
			return err
		}
		return tx.QueryRow(ctx, ledgerSQL).Scan(&l.Accepted, &l.Completed, &l.Dead, &l.Lost, &l.Duplicates, &l.Wrong, &l.PaidAndOpen)
	})
	if err != nil {
		return Ledger{}, fmt.Errorf("disputes: audit the ledger: %w", err)
	}
	return l, nil
}

// Err is nil if the ledger balances: nothing lost, nothing paid twice or wrong.
func (l Ledger) Err() error {
	var errs []error
	for _, c := range []struct {
		n    int
		what string
	}{
		{l.Lost, "accepted disputes have neither a refund nor an open dead letter"},
		{l.Duplicates, "refunds were paid twice, or for a dispute that was never accepted"},
		{l.Wrong, "refunds have a wrong amount or currency"},
		{l.PaidAndOpen, "disputes were paid although their dead letter is still open"},
	} {
		if c.n != 0 {
			errs = append(errs, fmt.Errorf("%d %s", c.n, c.what))
		}
	}
	return errors.Join(errs...)
}
