package relay

// What a relay says of itself, and what the database says of a source's relay.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
)

// State of a relay process.
type State string

// The states of a relay.
const (
	StateStarting State = "starting"
	StateStandby  State = "standby" // another process relays; this one is ready to
	StateActive   State = "active"
	StateWaiting  State = "waiting" // a server is away; Err says which
	StateHalted   State = "halted"  // a person must decide; Err is a *HaltError
)

// Status is a relay's own view, for /readyz and people.
type Status struct {
	State   State
	Since   time.Time         // this process's clock
	Fence   int64             // while active; else 0
	Err     error             // why it waits or is halted; nil = well
	Parked  map[string]string // queue → why its rows are parked; nil = none
	Retries error             // why records of delay topics do not move; nil = they do
}

// Ready is nil when the relay does its work, or stands by for one that does.
func (s Status) Ready() error {
	if s.State == StateActive || s.State == StateStandby {
		return errors.Join(s.Err, s.Retries)
	}
	if s.Err == nil {
		return fmt.Errorf("relay is %s", s.State)
	}
	return fmt.Errorf("relay is %s: %w", s.State, s.Err)
}

// Status may be called at any time, by any goroutine.
func (r *Relay) Status() Status {
	r.mu.Lock()
	s := r.status
	s.Parked = maps.Clone(s.Parked)
	r.mu.Unlock()
	if s.State == StateActive {
		if err := r.broker.waiting(); err != nil {
			s.State, s.Err = StateWaiting, err
		}
	}
	return s
}

func (r *Relay) setState(state State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != state {
		r.status.Since = time.Now()
	}
	r.status.State, r.status.Err = state, err
	if state != StateActive && state != StateWaiting {
		r.status.Fence, r.status.Parked = 0, nil
	}
}

// setActive also takes over which queues are parked.
func (t *term) setActive() {
	t.r.setState(StateActive, nil)
	t.r.metrics.active.Set(1)
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.r.status.Fence = t.fence
	if !maps.Equal(t.parked, t.r.status.Parked) {
		t.r.status.Parked = maps.Clone(t.parked)
	}
}

func (r *Relay) setRetries(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Retries = err
}

// Outbox is what the database says of a source's outbox, for `outbox status`,
// `doctor` and the scaling signal. Times are the database's.
type Outbox struct {
	Owner     string    // of the lease; "" = nobody has relayed yet
	Alive     bool      // the lease has not run out
	MovedAt   time.Time // when the cursor last moved; zero = never
	Backlog   int64     // rows not relayed, counted up to BacklogLimit
	Oldest    float64   // age of the oldest of them, seconds; 0 = none
	Scheduled int64
	NextDue   time.Time        // zero = nothing is scheduled
	Parked    map[string]int64 // queue → rows
}

// BacklogLimit is where counting ends.
const BacklogLimit = 100_000

const (
	outboxState = `
select coalesce(l.owner, ''), coalesce(l.until > clock_timestamp(), false), c.moved_at,
  (select count(*) from perdure.scheduled), (select min(due) from perdure.scheduled)
from (select 1) one
left join perdure.relay_lease l on l.shard = $1
left join perdure.relay_cursor c on c.shard = $1`
	// The rows that a relay would read now, by the same two ways.
	outboxBacklog = `
with s as materialized (
  select coalesce(c.prev, '3:3:'::pg_snapshot) as prev, coalesce(c.at_id, 0) as at_id,
    c.upto as target, pg_current_snapshot() as upto
  from (select 1) one left join perdure.relay_cursor c on c.shard = $1)
select count(*), coalesce(extract(epoch from now() - min(created_at)), 0)::float8 from (
  select o.created_at from s, perdure.outbox o
   where o.xid >= pg_snapshot_xmax(s.prev) and pg_visible_in_snapshot(o.xid, s.upto)
     and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(o.xid, s.target))
  union all
  select o.created_at from s, pg_snapshot_xip(s.prev) x join perdure.outbox o on o.xid = x
   where pg_visible_in_snapshot(x, s.upto)
     and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(x, s.target))
  limit $2) r`
	outboxParked = `select queue, count(*) from perdure.parked group by queue`
)

// Querier is what ReadOutbox needs of a pool or a connection.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadOutbox asks the database, not a relay: it works where none runs.
func ReadOutbox(ctx context.Context, db Querier, source string) (Outbox, error) {
	o := Outbox{Parked: map[string]int64{}}
	var moved, due *time.Time
	err := db.QueryRow(ctx, outboxState, source).Scan(&o.Owner, &o.Alive, &moved, &o.Scheduled, &due)
	if err != nil {
		return o, fmt.Errorf("postgres: ask for the relay's state: %w", err)
	}
	if moved != nil {
		o.MovedAt = *moved
	}
	if due != nil {
		o.NextDue = *due
	}
	if err := db.QueryRow(ctx, outboxBacklog, source, BacklogLimit).Scan(&o.Backlog, &o.Oldest); err != nil {
		return o, fmt.Errorf("postgres: count the outbox's backlog: %w", err)
	}
	rows, err := db.Query(ctx, outboxParked)
	if err != nil {
		return o, fmt.Errorf("postgres: count parked tasks: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var queue string
		var n int64
		if err := rows.Scan(&queue, &n); err != nil {
			return o, fmt.Errorf("postgres: count parked tasks: %w", err)
		}
		o.Parked[queue] = n
	}
	if err := rows.Err(); err != nil {
		return o, fmt.Errorf("postgres: count parked tasks: %w", err)
	}
	return o, nil
}
