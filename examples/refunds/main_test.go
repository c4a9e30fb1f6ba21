package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/workertest"
)

// fakeBank answers with its list of errors, then with nil.
type fakeBank struct {
	answers []error
	refunds map[string]int
}

func (b *fakeBank) Refund(_ context.Context, key, _ string, amount int) error {
	if len(b.answers) > 0 {
		err := b.answers[0]
		b.answers = b.answers[1:]
		if err != nil {
			return err
		}
	}
	if b.refunds == nil {
		b.refunds = map[string]int{}
	}
	b.refunds[key] = amount
	return nil
}

// program is the worker as main starts it, with another bank.
func program(t *testing.T, b bank) *workertest.Program {
	return workertest.New(t, "catalog.yaml", handlers{b}.setup)
}

func TestADeclinedRefundDies(t *testing.T) {
	p := program(t, &fakeBank{answers: []error{errDeclined}})
	o := p.Run(t, "refund.issue", refund{Amount: 5})
	if o.Reason != schemas.ReasonPermanent || o.Fingerprint != "declined" {
		t.Errorf("%+v", o)
	}
}

func TestABankThatIsClosedIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := errors.New("closed")
		s := program(t, &fakeBank{answers: []error{closed, closed}}).Play(t, "refund.issue", refund{Amount: 5})
		if s.Result != schemas.OutcomeCompleted || len(s.Starts) != 3 || s.Starts[1].Waited != 2*time.Second {
			t.Error(s)
		}
	})
}

func TestARefundIsPaidOnceThoughItsWorkerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBank{}
		s := program(t, b).Play(t, "refund.issue", refund{Amount: 5}, workertest.Crash(1))
		if s.Result != schemas.OutcomeCompleted || len(b.refunds) != 1 {
			t.Error(s, b.refunds)
		}
	})
}
