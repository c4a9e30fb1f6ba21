package client

// The ways in.

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// DB is what the client needs of a database: *pgxpool.Pool has it.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Option changes a Client.
type Option func(*Client)

// WithLockTimeout bounds how long Enqueue, EnqueueMany and EnqueueEach wait for
// another transaction that has used the same key and not committed;
// then ErrStillCommitting. Default 5 s. The Tx methods wait as long as the
// caller's own lock_timeout says.
func WithLockTimeout(d time.Duration) Option { return func(c *Client) { c.lockTimeout = d } }

// Client accepts tasks. It may be used by many goroutines.
type Client struct {
	db          DB
	kinds       kinds
	now         func() time.Time
	lockTimeout time.Duration
}

// New returns a client on db, which it never closes. It reads the catalog, so
// it fails where the database is away or not migrated.
func New(ctx context.Context, db DB, opts ...Option) (*Client, error) {
	c := &Client{db: db, now: time.Now, lockTimeout: 5 * time.Second}
	for _, o := range opts {
		o(c)
	}
	c.kinds.db, c.kinds.now = db, func() time.Time { return c.now() }
	if _, err := c.kinds.look(ctx, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// Source is the name of the database's outbox, the first part of every id.
func (c *Client) Source() string { return c.kinds.latest.Load().source }

// EnqueueTx accepts t if and when tx commits. After an error that is not an
// *InvalidError or ErrKeyReuse, tx must be rolled back.
func (c *Client) EnqueueTx(ctx context.Context, tx pgx.Tx, t Task) (Ref, error) {
	return c.enqueue(ctx, askPgx(tx), &t)
}

// EnqueueSQLTx is EnqueueTx for database/sql, with any Postgres driver.
func (c *Client) EnqueueSQLTx(ctx context.Context, tx *sql.Tx, t Task) (Ref, error) {
	return c.enqueue(ctx, askSQL(tx), &t)
}

func (c *Client) enqueue(ctx context.Context, ask asker, t *Task) (Ref, error) {
	s, r, err := c.check(ctx, t, c.now())
	if err != nil {
		return Ref{}, err
	}
	return insertOne(ctx, ask, s.source, r)
}

func (c *Client) check(ctx context.Context, t *Task, now time.Time) (*snapshot, *row, error) {
	r := new(row)
	s, err := c.checkInto(ctx, r, t, now)
	return s, r, err
}

// checkInto is given one time for all tasks of a call: those of a kind that expires
// then have one deadline, and may share an outbox row.
func (c *Client) checkInto(ctx context.Context, r *row, t *Task, now time.Time) (*snapshot, error) {
	s, err := c.kinds.get(ctx, t.Kind, t.Queue, now)
	if err != nil {
		return nil, err
	}
	*r, err = s.row(t, now)
	return s, err
}

// Validate checks t as the others do and writes nothing. The error is an
// *InvalidError, or says that the catalog could not be read.
func (c *Client) Validate(ctx context.Context, t Task) error {
	_, _, err := c.check(ctx, &t, c.now())
	return err
}

// Enqueue accepts t in a transaction of its own.
func (c *Client) Enqueue(ctx context.Context, t Task) (Ref, error) {
	s, r, err := c.check(ctx, &t, c.now())
	if err != nil {
		return Ref{}, err
	}
	ask := func(ctx context.Context, query string, args ...any) scanner {
		return c.db.QueryRow(ctx, query, args...)
	}
	if r.idempotencyKey == "" && r.uniqueKey == "" {
		return insertOne(ctx, ask, s.source, r)
	}
	var out Ref
	err = again(func() error {
		out, err = c.enqueueKeyed(ctx, ask, s, r)
		return err
	})
	return out, err
}

// enqueueKeyed sends the lock timeout and the row in one round trip, which is
// one transaction.
func (c *Client) enqueueKeyed(ctx context.Context, ask asker, s *snapshot, r *row) (Ref, error) {
	var b pgx.Batch
	b.Queue(sqlLockTimeout, c.lockTimeoutText())
	if r.uniqueKey != "" {
		b.Queue(sqlInsertUnique, uniqueArgs(r)...)
	} else {
		b.Queue(sqlInsertKeyed, keyedArgs(r)...)
	}
	res := c.db.SendBatch(ctx, &b)
	_, err := res.Exec()
	if r.uniqueKey != "" {
		return uniqueOf(res, err, s.source)
	}
	var seq int64
	var generation int
	if err == nil {
		err = res.QueryRow().Scan(&seq, &generation)
	}
	held := errors.Is(err, sql.ErrNoRows)
	if cerr := res.Close(); err == nil || held {
		if cerr != nil {
			return Ref{}, wrap("write the outbox row", cerr)
		}
	}
	if held {
		return holder(ctx, ask, s.source, r)
	}
	if err != nil {
		return Ref{}, wrap("write the outbox row", err)
	}
	return ref(s.source, generation, seq, r.scheduled, false), nil
}

func (c *Client) lockTimeoutText() string {
	return strconv.FormatInt(max(1, c.lockTimeout.Milliseconds()), 10) + "ms"
}

// EnqueueMany accepts all tasks or none, in a transaction of its own. The Refs
// are in the order of the tasks, and so are their ids. The error is TaskErrors
// where tasks are to blame.
func (c *Client) EnqueueMany(ctx context.Context, tasks []Task) ([]Ref, error) {
	source, rows, err := c.checkMany(ctx, tasks)
	if err != nil {
		return nil, err
	}
	var refs []Ref
	err = c.insertAll(ctx, source, rows, func(out []Outcome) error {
		refs, err = allOrNothing(out)
		return err
	})
	return refs, err
}

// EnqueueManyTx is EnqueueMany in the caller's transaction, which must be
// rolled back after any error but TaskErrors of *InvalidError.
func (c *Client) EnqueueManyTx(ctx context.Context, tx pgx.Tx, tasks []Task) ([]Ref, error) {
	source, rows, err := c.checkMany(ctx, tasks)
	if err != nil {
		return nil, err
	}
	out := make([]Outcome, len(rows))
	if err := insertMany(ctx, tx, source, rows, out, ""); err != nil {
		return nil, err
	}
	return allOrNothing(out)
}

func (c *Client) checkMany(ctx context.Context, tasks []Task) (source string, rows []*row, err error) {
	var bad TaskErrors
	rows = make([]*row, 0, len(tasks))
	all := make([]row, len(tasks))
	now := c.now()
	for i := range tasks {
		s, err := c.checkInto(ctx, &all[i], &tasks[i], now)
		if err != nil {
			if !isInvalid(err) {
				return "", nil, err
			}
			bad = append(bad, TaskError{i, err})
			continue
		}
		source, rows = s.source, append(rows, &all[i])
	}
	if len(bad) > 0 {
		return "", nil, bad
	}
	return source, rows, nil
}

func allOrNothing(out []Outcome) ([]Ref, error) {
	var bad TaskErrors
	refs := make([]Ref, len(out))
	for i, o := range out {
		refs[i] = o.Ref
		if o.Err != nil {
			bad = append(bad, TaskError{i, o.Err})
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return refs, nil
}

// EnqueueEach accepts every task that is right, in one transaction of its own,
// and says for each what became of it. An error means that none was accepted,
// or, with ErrUnavailable or context.Canceled, that it is not known.
func (c *Client) EnqueueEach(ctx context.Context, tasks []Task) ([]Outcome, error) {
	out := make([]Outcome, len(tasks))
	var source string
	var rows []*row
	var at []int
	all := make([]row, len(tasks))
	now := c.now()
	for i := range tasks {
		s, err := c.checkInto(ctx, &all[i], &tasks[i], now)
		if err != nil {
			if !isInvalid(err) {
				return nil, err
			}
			out[i].Err = err
			continue
		}
		source, rows, at = s.source, append(rows, &all[i]), append(at, i)
	}
	if len(rows) == 0 {
		return out, nil
	}
	err := c.insertAll(ctx, source, rows, func(got []Outcome) error {
		for n, i := range at {
			out[i] = got[n]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func isInvalid(err error) bool {
	var invalid *InvalidError
	return errors.As(err, &invalid)
}
