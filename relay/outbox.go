package relay

// What the database says of a source's outbox and of who relays it.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Outbox is what the database says of a source's outbox, for `outbox status`,
// `why` and the metrics. Times are the database's.
type Outbox struct {
	Now       time.Time         // when this was read
	Owner     string            // of the lease; "" = nobody has relayed yet
	Alive     bool              // the lease has not run out
	Until     time.Time         // the lease's end: not alive, nobody has relayed since; zero = nobody ever did
	Fence     int64             // of the lease: grows with each taking; 0 = nobody has relayed yet
	MovedAt   time.Time         // when the cursor last moved; zero = never
	Backlog   int64             // tasks not relayed, counted up to BacklogLimit
	Oldest    float64           // age of the oldest of them, seconds; 0 = none
	Scheduled int64             // counted up to BacklogLimit
	NextDue   time.Time         // zero = nothing is scheduled
	Parked    map[string]int64  // queue → rows, counted up to BacklogLimit
	Whys      map[string]string // queue → why they are parked
	Open      []Transaction     // in progress, oldest first, openListed at most
	Leaves    int64             // partitions
	Bytes     int64             // of the outbox with its indexes
}

// Transaction is one in progress that has an id. The relay does not wait for it,
// but its own rows are not there before it commits, and while it lasts a partition
// that it has read or written cannot be emptied.
type Transaction struct {
	PID         int32     `json:"pid,omitempty"`      // 0 = a prepared one
	Prepared    string    `json:"prepared,omitempty"` // its name
	Application string    `json:"application,omitempty"`
	User        string    `json:"user,omitempty"`
	State       string    `json:"state,omitempty"` // of its session: "idle in transaction" waits for its program
	Since       time.Time `json:"since,omitzero"`  // zero = this role may not see it
	Writes      bool      `json:"writes_outbox"`   // it has written to the outbox
}

// Name says who holds a transaction open.
func (t *Transaction) Name() string {
	if t.PID == 0 {
		return fmt.Sprintf("prepared transaction %q", t.Prepared)
	}
	name := fmt.Sprintf("pid %d", t.PID)
	if t.Application != "" {
		name += " (" + t.Application + ")"
	} else if t.User != "" {
		name += " (user " + t.User + ")"
	}
	return name
}

// BacklogLimit is where counting ends.
const BacklogLimit = 100_000

const openListed = 20

const (
	outboxState = `
select clock_timestamp(), coalesce(l.owner, ''), coalesce(l.until > clock_timestamp(), false), l.until, coalesce(l.fence, 0), c.moved_at,
  (select count(*) from (select from perdure.scheduled limit $2) s), (select min(due) from perdure.scheduled)
from (select 1) one
left join perdure.relay_lease l on l.shard = $1
left join perdure.relay_cursor c on c.shard = $1`
	// The rows that a relay would read now, by the same two ways, and with the same
	// care for the plan: see difference. It is asked every few seconds.
	outboxBacklog = `
with s as materialized (
  select coalesce(c.prev, '` + firstSnapshot + `'::pg_snapshot) as prev, coalesce(c.at_id, 0) as at_id,
    c.upto as target, pg_current_snapshot() as upto
  from (select 1) one left join perdure.relay_cursor c on c.shard = $1)
select least(coalesce(sum(tasks), 0), $2)::bigint, coalesce(extract(epoch from now() - min(created_at)), 0)::float8 from (
  select o.created_at, coalesce(cardinality(o.ends), 1) as tasks from perdure.outbox o
   where o.xid >= pg_snapshot_xmax((select prev from s)) and o.xid < pg_snapshot_xmax((select upto from s))
     and pg_visible_in_snapshot(o.xid, (select upto from s))
     and ((select target from s) is null or o.id + 0 > (select at_id from s) or not pg_visible_in_snapshot(o.xid, (select target from s)))
  union all
  select o.created_at, o.tasks from s, pg_snapshot_xip(s.prev) x, lateral (
    select o.id, o.created_at, coalesce(cardinality(o.ends), 1) as tasks from perdure.outbox o where o.xid = x offset 0) o
   where pg_visible_in_snapshot(x, s.upto)
     and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(x, s.target))
  limit $2) r`
	onlyIndexes = `
select array_agg(set_config(name, 'off', true)) from unnest(array['enable_seqscan', 'enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin']) name`
	// From one queue to the next by the index: there may be millions of one. $1 counts
	// each up to there.
	eachParked = `
with recursive q as (
  (select queue from perdure.parked order by queue limit 1)
  union all
  select (select p.queue from perdure.parked p where p.queue > q.queue order by p.queue limit 1) from q where q.queue is not null)
select q.queue, (select count(*) from (select from perdure.parked p where p.queue = q.queue limit $1) c),
  coalesce((select p.why from perdure.parked p where (p.queue, p.id) > (q.queue, 0) order by p.queue, p.id limit 1), '')
from q where q.queue is not null`
	outboxSize = `
select count(*), coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
from pg_inherits where inhparent = 'perdure.outbox'::regclass`
	// Every transaction with an id holds a lock on it, and locks are shown to every
	// role; what its session is may be hidden (pg_read_all_stats).
	outboxOpen = `
with o as (
  select inhrelid as rel from pg_inherits where inhparent = 'perdure.outbox'::regclass
  union all select 'perdure.outbox'::regclass)
select coalesce(x.pid, 0), coalesce(p.gid, ''), coalesce(a.application_name, ''), coalesce(a.usename::text, p.owner::text, ''), coalesce(a.state, ''),
  coalesce(p.prepared, a.xact_start), exists (
    select from pg_locks l where l.locktype = 'relation' and l.virtualtransaction = x.virtualtransaction and l.granted
      and l.mode = 'RowExclusiveLock' and l.relation in (select rel from o)
      and l.database = (select oid from pg_database where datname = current_database()))
from (select distinct on (virtualtransaction) virtualtransaction, pid, transactionid from pg_locks
  where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted and pid is distinct from pg_backend_pid()
  order by virtualtransaction, transactionid::text::bigint) x
left join pg_stat_activity a on a.pid = x.pid
left join pg_prepared_xacts p on p.transaction = x.transactionid
order by coalesce(p.prepared, a.xact_start) nulls last limit $1`
)

// Querier is what reading needs of a pool or a connection.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadOutbox asks the database, not a relay: it works where none runs.
func ReadOutbox(ctx context.Context, db interface {
	Querier
	Beginner
}, source string) (Outbox, error) {
	o := Outbox{Parked: map[string]int64{}, Whys: map[string]string{}}
	var until, moved, due *time.Time
	err := db.QueryRow(ctx, outboxState, source, BacklogLimit).Scan(&o.Now, &o.Owner, &o.Alive, &until, &o.Fence, &moved, &o.Scheduled, &due)
	if err != nil {
		return o, fmt.Errorf("postgres: ask for the relay's state: %w", err)
	}
	for to, from := range map[*time.Time]*time.Time{&o.Until: until, &o.MovedAt: moved, &o.NextDue: due} {
		if from != nil {
			*to = *from
		}
	}
	if err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return o.count(ctx, tx, source) }); err != nil {
		return o, err
	}
	if err := db.QueryRow(ctx, outboxSize).Scan(&o.Leaves, &o.Bytes); err != nil {
		return o, fmt.Errorf("postgres: measure the outbox: %w", err)
	}
	o.Open, err = ReadTransactions(ctx, db)
	return o, err
}

// count counts what waits, in a transaction whose settings are ended with it.
func (o *Outbox) count(ctx context.Context, db Querier, source string) error {
	var set []string
	if err := db.QueryRow(ctx, onlyIndexes).Scan(&set); err != nil {
		return fmt.Errorf("postgres: count the outbox's backlog: %w", err)
	}
	if err := db.QueryRow(ctx, outboxBacklog, source, BacklogLimit).Scan(&o.Backlog, &o.Oldest); err != nil {
		return fmt.Errorf("postgres: count the outbox's backlog: %w", err)
	}
	rows, err := db.Query(ctx, eachParked, BacklogLimit)
	if err != nil {
		return fmt.Errorf("postgres: count parked tasks: %w", err)
	}
	var queue, why string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&queue, &n, &why}, func() error {
		o.Parked[queue], o.Whys[queue] = n, why
		return nil
	})
	if err != nil {
		return fmt.Errorf("postgres: count parked tasks: %w", err)
	}
	return nil
}

// ReadTransactions lists what is in progress, oldest first, a few at most. A
// standby has none.
func ReadTransactions(ctx context.Context, db Querier) ([]Transaction, error) {
	rows, err := db.Query(ctx, outboxOpen, openListed)
	if err != nil {
		return nil, fmt.Errorf("postgres: list transactions in progress: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Transaction, err error) {
		var since *time.Time
		err = row.Scan(&t.PID, &t.Prepared, &t.Application, &t.User, &t.State, &since, &t.Writes)
		if since != nil {
			t.Since = *since
		}
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: list transactions in progress: %w", err)
	}
	return list, nil
}
