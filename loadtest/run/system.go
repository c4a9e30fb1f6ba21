package run

// What is loaded.

import (
	"context"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/loadtest/run/usage"
)

// System is a Perdure to be loaded: its roles run, and its worker hands every
// payload to Tally.Begin before anything else.
type System interface {
	// Enqueue accepts all tasks in one transaction, or none.
	Enqueue(ctx context.Context, tasks []client.Task) error
	// Done is how many tasks are known to be completed, by the claims.
	Done(ctx context.Context) (int, error)
	// Lag is how many records of the queue are beyond the committed offsets.
	Lag(ctx context.Context) (int64, error)
	// Kafka measures Kafka alone; see Baseline.
	Kafka() *Baseline
	// Servers says what it runs on.
	Servers() []Server
	// Failed yields why a part ended by itself.
	Failed() <-chan error
}

// Server is one that a run used.
type Server struct {
	Name     string   `json:"name"`
	Addr     string   `json:"addr"` // no password
	Detail   string   `json:"detail,omitempty"`
	Embedded bool     `json:"embedded,omitempty"`
	Listens  []string `json:"-"` // to find its process by
	InUs     bool     `json:"-"` // it is a part of this process
}

func targets(servers []Server) (t []usage.Target) {
	for _, s := range servers {
		t = append(t, usage.Target{Name: s.Name, Addrs: s.Listens, InProcess: s.InUs})
	}
	return t
}
