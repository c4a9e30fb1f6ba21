// Command refunds is a worker with middleware, and with tests that need no
// servers: main_test.go.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/perdure/perdure/worker"
)

type refund struct {
	Card   string `json:"card"`
	Amount int    `json:"amount"`
}

// bank is what the handler calls. A second call with the same key changes
// nothing and gives the first one's answer.
type bank interface {
	Refund(ctx context.Context, key, card string, amount int) error
}

// errDeclined is the bank's last word; everything else may pass by.
var errDeclined = errors.New("declined")

type handlers struct{ bank bank }

func (h handlers) issue(ctx context.Context, t *worker.Task[refund]) error {
	err := h.bank.Refund(ctx, t.ID, t.Payload.Card, t.Payload.Amount)
	if errors.Is(err, errDeclined) {
		return worker.Permanent(worker.Fingerprint(err, "declined"))
	}
	if err != nil {
		return fmt.Errorf("refund %d: %w", t.Payload.Amount, err)
	}
	return nil
}

func (h handlers) setup(w *worker.Worker) error {
	w.Use(timed, panicsArePermanent)
	worker.Handle(w, "refund.issue", h.issue)
	return nil
}

func main() { worker.Main(handlers{printer{}}.setup) }

// printer stands in for a bank.
type printer struct{}

func (printer) Refund(_ context.Context, key, card string, amount int) error {
	fmt.Println("refund", amount, "to", card, "under", key)
	return nil
}
