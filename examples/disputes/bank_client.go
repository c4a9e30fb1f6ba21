package disputes

// Asking the bank, and telling "come again" from "no".

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/perdure/perdure/worker"
)

// Charge is what the bank knows of one.
type Charge struct {
	ID         string `json:"charge_id"`
	State      string `json:"state"`
	Refundable bool   `json:"refundable"`
}

// BankDownError is a bank that did not answer, or said that it cannot now. It is
// worth trying again.
type BankDownError struct{ Cause string }

func (e *BankDownError) Error() string { return "bank is unavailable: " + e.Cause }

// BankRefusedError is a bank that said no, and will say it again.
type BankRefusedError struct {
	Status int
	Detail string
}

func (e *BankRefusedError) Error() string {
	return fmt.Sprintf("bank refused (%d): %s", e.Status, e.Detail)
}

// BankClient calls a bank's API. It may be used concurrently.
type BankClient struct {
	base string
	http *http.Client
}

// NewBankClient returns a client for the API at base, an http address.
func NewBankClient(base string) *BankClient {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	return &BankClient{base: base, http: &http.Client{Transport: t}}
}

// Close drops idle connections.
func (b *BankClient) Close() { b.http.CloseIdleConnections() }

// Charge looks up a charge.
func (b *BankClient) Charge(ctx context.Context, id string) (Charge, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+"/charges/"+id, nil)
	if err != nil {
		return Charge{}, err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return Charge{}, &BankDownError{err.Error()}
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Charge{}, &BankDownError{err.Error()}
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		var c Charge
		if err := json.Unmarshal(body, &c); err != nil {
			return Charge{}, fmt.Errorf("bank's answer: %w", err)
		}
		return c, nil
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		down := &BankDownError{resp.Status}
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			return Charge{}, worker.RetryAfter(time.Duration(s)*time.Second, down)
		}
		return Charge{}, down
	default:
		var problem struct{ Detail string }
		_ = json.Unmarshal(body, &problem) // without a problem there is no detail
		return Charge{}, worker.Permanent(&BankRefusedError{resp.StatusCode, problem.Detail})
	}
}
