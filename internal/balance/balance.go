package balance

// Compute and its report.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Claims is what is asked of Redis about tasks; *claims.Store is one.
type Claims interface {
	Get(ctx context.Context, ids ...string) ([]claims.Claim, error)
	DoneBits(ctx context.Context, source string, generation int, chunk int64) ([]byte, error)
	// Present is the incarnation that Redis holds now, 0 if none: flushed, lost, or
	// never used.
	Present(ctx context.Context) (int64, error)
}

// Deps are what Compute uses and does not own.
type Deps struct {
	DB      *pgxpool.Pool
	Claims  Claims
	Admin   *kadm.Client // committed offsets
	Kafka   []kgo.Opt    // brokers, TLS, SASL: to look for records of tasks that are found nowhere else
	Names   kafka.Names
	Queues  []string          // of the catalog
	Shared  map[string]string // kafka.ShareGroups of the catalog; nil = none
	Source  string            // PERDURE_SOURCE
	Horizon time.Duration     // how long Redis remembers done; 0 = claims.DefaultHorizon
	Settle  time.Duration     // pause before a task that seems lost is looked at again; 0 = 500ms
}

// Report says where every task is that was accepted since Since and whose
// outbox row is still kept (PERDURE_HISTORY).
// Accepted = Completed + Waiting + Dead + Discarded + Cancelled + Lost.
type Report struct {
	Since     time.Time `json:"since,omitzero"`
	Accepted  int64     `json:"accepted"`
	Completed int64     `json:"completed"`
	Inferred  int64     `json:"inferred" doc:"of completed: Redis no longer knows; their records are committed and left no letter"`
	Waiting   int64     `json:"waiting"`
	Dead      int64     `json:"dead"`
	Discarded int64     `json:"discarded"`
	Cancelled int64     `json:"cancelled"`
	Replayed  int64     `json:"replayed" doc:"letters replayed, whatever became of them"`
	Lost      int64     `json:"lost"`

	Where   map[string]int64 `json:"where" doc:"of waiting: unrelayed, scheduled, parked, held, queued, running, retrying"`
	LostIDs []LostTask       `json:"lost_tasks,omitempty" doc:"the first 100"`
	Strays  int64            `json:"strays" doc:"open letters of records that were no accepted task"`
	Forgot  bool             `json:"redis_forgot,omitempty" doc:"Redis was lost and no worker has opened it again yet"`
}

// LostTask is a task that is nowhere.
type LostTask struct {
	ID  string `json:"id"`
	Why string `json:"why"` // the last trace, and what is missing after it
}

// maxNamed bounds Report.LostIDs.
const maxNamed = 100

// Line is the report in one line, the last of `perdure balance`.
func (r *Report) Line() string {
	return fmt.Sprintf("accepted=%d completed=%d waiting=%d dead=%d discarded=%d cancelled=%d replayed=%d lost=%d",
		r.Accepted, r.Completed, r.Waiting, r.Dead, r.Discarded, r.Cancelled, r.Replayed, r.Lost)
}

func (d *Deps) check() error {
	if d.DB == nil || d.Claims == nil || d.Admin == nil || d.Source == "" {
		return errors.New("balance: it needs a database, claims, Kafka and the source's name")
	}
	if d.Horizon <= 0 {
		d.Horizon = claims.DefaultHorizon
	}
	if d.Settle <= 0 {
		d.Settle = 500 * time.Millisecond
	}
	return nil
}

// Compute looks at every task accepted since (zero: all whose rows are kept).
//
// Tasks move while it looks. Places are read in the order in which a task moves
// through them: outbox and its filed rows, relay log, committed offsets, letters
// and replays, claims and done bits last. A task that leaves a place before it
// is looked at has then arrived in one that is looked at later. Only a replay
// leads back (letter → outbox row), and a letter's replay rows are read after
// the letter, their way by the same order again. Committed offsets that are a
// little old can only make a task count as queued that has moved on since.
// What still seems lost is looked at again, twice, then searched for on the
// topics themselves, before it is called lost.
func Compute(ctx context.Context, deps Deps, since time.Time) (Report, error) {
	r := Report{Since: since, Where: map[string]int64{}}
	if err := deps.check(); err != nil {
		return r, err
	}
	c := &computation{Deps: deps, since: since, report: &r}
	for _, step := range []func(context.Context) error{c.openLife, c.scan, c.settle, c.strays} {
		if err := step(ctx); err != nil {
			return r, fmt.Errorf("balance: %w", err)
		}
	}
	return r, nil
}

// scan looks at every task once.
func (c *computation) scan(ctx context.Context) error {
	lo, hi, err := c.span(ctx)
	if err != nil {
		return err
	}
	for chunk := lo / claims.ChunkBits; chunk*claims.ChunkBits <= hi; chunk++ {
		if err := c.chunk(ctx, chunk*claims.ChunkBits, (chunk+1)*claims.ChunkBits); err != nil {
			return fmt.Errorf("ids from %d: %w", chunk*claims.ChunkBits, err)
		}
	}
	return nil
}

// computation is one Compute under way.
type computation struct {
	Deps
	since   time.Time
	report  *Report
	life    life
	suspect []*task // seem lost
}

// task is one accepted task and what was found of it.
type task struct {
	seq        int64
	generation int
	passed     bool   // the relay's cursor has passed its row
	filed      string // scheduled, parked, held
	hop        *hop
	done       bool

	letter *letter // the newest
	replay *replay // of that letter, if it is replaying
	claim  claims.Claim
}

func (t *task) id(source string) string {
	return schemas.ID{Source: source, Generation: t.generation, Seq: t.seq}.String()
}

// count puts a task into its class.
func (r *Report) count(p place) {
	switch p.class {
	case completed:
		r.Completed++
		if p.inferred {
			r.Inferred++
		}
	case waiting:
		r.Waiting++
		r.Where[p.where]++
	case dead:
		r.Dead++
	case discarded:
		r.Discarded++
	case cancelled:
		r.Cancelled++
	}
}
