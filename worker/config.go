package worker

// What a worker is told, and what it needs from others.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Defaults of Config.
const (
	DefaultConcurrency    = 64
	DefaultGrace          = 20 * time.Second
	DefaultAbandonAfter   = 5 * time.Second
	DefaultHeldAlarm      = 5 * time.Minute
	DefaultSessionTimeout = 6 * time.Second
	DefaultSilence        = 600 * time.Millisecond
	DefaultCommitInterval = 500 * time.Millisecond
	DefaultMaxHeld        = 10_000
	DefaultMaxHeldBytes   = 128 << 20
)

// minSilence keeps beats at least 50 ms apart.
const minSilence = 300 * time.Millisecond

// Config of a Worker. Instance is required; the zero value of everything else
// means its default.
type Config struct {
	Instance string   // name of this process: unique in the fleet, the same after a restart
	NameHeld bool     // a lock proves that no other living process has the name: who beats under it is dead
	Queues   []string // nil = every queue with a kind that this worker can run
	Release  string   // version of the user's code, kept with each failure

	Concurrency    int           // attempts that run at once
	Grace          time.Duration // for running attempts at a stop or a rebalance
	AbandonAfter   time.Duration // for a handler whose context ended, until it is abandoned
	HeldAlarm      time.Duration // a task that holds its partition's low watermark for longer is named in the log, and one that abandoned handlers keep from running alone ends the worker
	SessionTimeout time.Duration // silence after which Kafka gives this worker's partitions away by itself
	Silence        time.Duration // without a beat, after which the other workers have one removed
	CommitInterval time.Duration // between offset commits
	MaxHeld        int           // records in memory, over all queues
	MaxHeldBytes   int           // their bytes
}

// Deps are what a Worker talks to. Catalog, Kafka, Claims are required.
type Deps struct {
	Catalog *schemas.Catalog
	Names   kafka.Names // prefix of topics and groups
	Kafka   []kgo.Opt   // brokers, TLS, SASL: how any client of this process connects
	Claims  Claims

	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = metrics are kept and not shown
	Getenv   func(string) string   // for secrets named by the catalog; nil = os.Getenv
}

// Claims is what a worker asks of the claim store; *claims.Store has it.
type Claims interface {
	Config() claims.Config
	Open(ctx context.Context) error
	BeatAndLook(ctx context.Context, owner, line string, look bool) ([]claims.Peer, error)
	Peers(ctx context.Context) ([]claims.Peer, error)
	Bury(ctx context.Context, watcher string, p claims.Peer, pause time.Duration) (bool, error)
	Succeed(ctx context.Context, p claims.Peer, known bool) (bool, error)
	Forget(ctx context.Context, process string) error
	Leave(ctx context.Context, owner string) error
	Claim(ctx context.Context, owner string, recs []claims.Record, grants []claims.Grant) ([]claims.Grant, error)
	Done(ctx context.Context, owner string, done []claims.Outcome) ([]claims.DoneResult, error)
	Wait(ctx context.Context, owner string, o []claims.WaitOutcome) ([]bool, error)
	Dead(ctx context.Context, owner string, o []claims.DeadOutcome) ([]bool, error)
	Cancelled(ctx context.Context, owner string, held []claims.Hold) ([]bool, error)
	CancelAsked(ctx context.Context, held []claims.Hold) ([]bool, error)
	Signs(ctx context.Context, held []claims.Hold) ([]int64, error)
	Hear(ctx context.Context, g claims.Sign) (claims.Heard, error)
	HandBack(ctx context.Context, owner string, held []claims.Hold) error
	Reassert(ctx context.Context, owner string, held []claims.Held, done []claims.Outcome) ([]bool, error)
}

func (c *Config) fill() error {
	def(&c.Concurrency, DefaultConcurrency)
	def(&c.Grace, DefaultGrace)
	def(&c.AbandonAfter, DefaultAbandonAfter)
	def(&c.HeldAlarm, DefaultHeldAlarm)
	def(&c.SessionTimeout, DefaultSessionTimeout)
	def(&c.Silence, DefaultSilence)
	def(&c.CommitInterval, DefaultCommitInterval)
	def(&c.MaxHeld, max(DefaultMaxHeld, 4*c.Concurrency))
	def(&c.MaxHeldBytes, DefaultMaxHeldBytes)
	switch {
	case c.Instance == "" || strings.ContainsAny(c.Instance, "/ \n"):
		return fmt.Errorf("worker: instance %q: want a name without spaces or slashes", c.Instance)
	case c.Concurrency < 1 || c.MaxHeld < 1 || c.MaxHeldBytes < 1:
		return errors.New("worker: concurrency, max held and max held bytes must be positive")
	case c.Grace < 0 || c.AbandonAfter < 0 || c.SessionTimeout < 0 || c.CommitInterval < 0:
		return errors.New("worker: durations must not be negative")
	case c.Silence < minSilence:
		return fmt.Errorf("worker: silence %v: want at least %v, or pauses of a busy host would count as deaths", c.Silence, minSilence)
	}
	return nil
}

func (d *Deps) fill() error {
	switch {
	case d.Catalog == nil:
		return errors.New("worker: a catalog is required")
	case d.Claims == nil:
		return errors.New("worker: a claim store is required")
	case len(d.Kafka) == 0:
		return errors.New("worker: Kafka client options are required (seed brokers at least)")
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Registry == nil {
		d.Registry = prometheus.NewRegistry()
	}
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	return nil
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
