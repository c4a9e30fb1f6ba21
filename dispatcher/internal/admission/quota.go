package admission

// Tasks a UTC day, for each name, in all dispatchers together. What was given out
// stands in Postgres; a dispatcher takes it from there in blocks of a thousandth
// of the quota, and from its block without asking anybody. So the sum never
// exceeds the quota, and what a killed dispatcher held of its block is lost for
// the day.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
)

const (
	blocks       = 1000            // a block is a quota divided by this
	quotaTimeout = 5 * time.Second // of one question to Postgres
	usedUpFor    = time.Second     // not asked again so soon: others may give back
	keepDays     = 8               // of perdure.quotas
	pruneEvery   = time.Hour       // and at the start
	utcDay       = 24 * time.Hour  // length of a UTC day
	dayFormat    = "2006-01-02"
)

// sqlReserve gives $3 to $4 tasks of the quota $5, all that is left of it in
// between, or no row where less than $3 are left. reserved = quota - left.
const sqlReserve = `
insert into perdure.quotas as q (day, principal, granted, reserved)
  select $1::date, $2, least($4::bigint, $5::bigint), least($4::bigint, $5::bigint) where $3::bigint <= $5::bigint
on conflict (day, principal) do update
  set granted = least($4::bigint, $5::bigint - q.reserved), reserved = q.reserved + least($4::bigint, $5::bigint - q.reserved)
  where q.reserved + $3::bigint <= $5::bigint
returning granted, reserved`

const sqlGiveBack = `update perdure.quotas set reserved = reserved - $3 where day = $1::date and principal = $2`

type quota struct {
	name  string
	limit int64
	turn  chan struct{} // capacity 1: who holds it may touch what is below

	day    string
	left   int64     // of the block
	known  int64     // reserved in the database, when it was asked last
	usedUp time.Time // when the database had nothing left; zero = it has
}

func newQuota(name string, limit int64) *quota {
	return &quota{name: name, limit: limit, turn: make(chan struct{}, 1)}
}

// Taken is what a post holds of its producer's quota.
type Taken struct {
	quota *quota // nil: no quota
	day   string
}

// Reserve takes n tasks of today's quota, all or none.
func (p *Producer) Reserve(ctx context.Context, n int) (Taken, *api.Problem) {
	q := p.quota
	if q == nil || n == 0 {
		return Taken{}, nil
	}
	if int64(n) > q.limit {
		return Taken{}, tooMany(fmt.Sprintf("an array of %d tasks can never pass: token %s may enqueue %d a day", n, p.name, q.limit), int(q.limit))
	}
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return Taken{}, stopped()
	}
	now := p.gate.now().UTC()
	if day := now.Format(dayFormat); day != q.day {
		q.day, q.left, q.known, q.usedUp = day, 0, 0, time.Time{}
	}
	if short := int64(n) - q.left; short > 0 {
		got, err := q.fetch(ctx, p.gate, short, now)
		if err != nil {
			p.gate.log.WarnContext(ctx, "quota could not be reserved", "token", p.name, "error", err)
			return Taken{}, api.Unavailable("Postgres", "send it again")
		}
		if !got {
			return Taken{}, q.exceeded(now)
		}
	}
	q.left -= int64(n)
	return Taken{q, q.day}, nil
}

// fetch takes short tasks, or a block if that is more. The request's end does not
// break it off: a block that was granted and not heard of would be lost.
func (q *quota) fetch(ctx context.Context, g *Gate, short int64, now time.Time) (bool, error) {
	if !q.usedUp.IsZero() && now.Sub(q.usedUp) < usedUpFor {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quotaTimeout)
	defer cancel()
	var granted int64
	err := g.db.QueryRow(ctx, sqlReserve, q.day, q.name, short, max(short, q.limit/blocks), q.limit).Scan(&granted, &q.known)
	if errors.Is(err, pgx.ErrNoRows) {
		if short == 1 {
			q.usedUp, q.known = now, q.limit
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("postgres: reserve of the quota of %s: %w", q.name, err)
	}
	q.left, q.usedUp = q.left+granted, time.Time{}
	return true, nil
}

func (q *quota) exceeded(now time.Time) *api.Problem {
	midnight := now.Truncate(utcDay).Add(utcDay)
	return api.NewProblem(http.StatusTooManyRequests, "quota-exceeded",
		fmt.Sprintf("token %s may enqueue %d tasks a UTC day, and has not as many left today; nothing was accepted", q.name, q.limit)).
		WithRetryAfter(midnight.Sub(now)).
		WithNext("send the same again after Retry-After, which is the next UTC midnight; more: quota in PERDURE_API_TOKENS_FILE")
}

// Return gives back n of what was taken: no task came of them. After midnight
// there is nothing to give back to.
func (t Taken) Return(n int) {
	if t.quota == nil || n == 0 {
		return
	}
	t.quota.turn <- struct{}{}
	defer func() { <-t.quota.turn }()
	if t.quota.day == t.day {
		t.quota.left += int64(n)
	}
}

// UsedUp says whether today's quota is used up, before a stream begins.
func (p *Producer) UsedUp(ctx context.Context) *api.Problem {
	taken, problem := p.Reserve(ctx, 1)
	if problem == nil {
		taken.Return(1)
	}
	return problem
}

// giveBack returns what is left of the blocks to the database.
func (g *Gate) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quotaTimeout)
	defer cancel()
	for _, p := range g.all() {
		q := p.quota
		if q == nil {
			continue
		}
		q.turn <- struct{}{}
		if q.left > 0 {
			if _, err := g.db.Exec(ctx, sqlGiveBack, q.day, q.name, q.left); err != nil {
				g.log.WarnContext(ctx, "unused quota was not given back: it is lost for today", "token", q.name, "tasks", q.left, "error", err)
			}
			q.left = 0
		}
		<-q.turn
	}
}

// prune deletes the days that nobody looks at any more.
func (g *Gate) prune(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		before := g.now().UTC().AddDate(0, 0, -keepDays).Format(dayFormat)
		if _, err := g.db.Exec(ctx, `delete from perdure.quotas where day < $1::date`, before); err != nil && ctx.Err() == nil {
			g.log.WarnContext(ctx, "old days of perdure.quotas were not deleted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
