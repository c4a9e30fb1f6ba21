package relay

// Tasks that the catalog files by the clock. A time is filed once: the row of
// perdure.schedules moves on in the transaction that writes the outbox row, from
// the time that was read and nothing else, under the fence. What fell due while no
// relay ran is filed once, for the first of the missed times.

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/perdure/perdure/schemas"
)

const (
	readSchedules = `select clock_timestamp(), kind, spec, next_at from perdure.schedules
union all select clock_timestamp(), null, null, null`
	planSchedule = `insert into perdure.schedules as s (kind, spec, next_at)
select $3::text, $4::text, $5::timestamptz where` + fenced + `
on conflict (kind) do update set spec = excluded.spec, next_at = excluded.next_at where s.spec <> excluded.spec`
	fileTask = `with due as (
  update perdure.schedules set next_at = $5, last_at = next_at, fired = fired + 1
   where kind = $3 and next_at = $4 and` + fenced + ` returning kind)
insert into perdure.outbox (kind, queue, deadline, headers, payload, checked)
select kind, $6::text, clock_timestamp() + $7::interval, $8::text::jsonb, $9::bytea, true from due`
	dropSchedules = `delete from perdure.schedules where kind = any($3::text[]) and` + fenced
)

// HeaderScheduledFor is on each task that was filed by the clock: the time, as
// RFC 3339 in UTC. The task itself may run later.
const HeaderScheduledFor = "scheduled_for"

// recurPause is how soon a failed look is repeated.
const recurPause = 5 * time.Second

// planned is a row of perdure.schedules.
type planned struct {
	spec string
	next time.Time
}

// schedulesOf are the kinds that this source files.
func schedulesOf(cat *schemas.Catalog, source string) []*schemas.Kind {
	var list []*schemas.Kind
	for _, name := range cat.KindNames() {
		k := cat.Kind(name)
		if k.Schedule != nil && (k.Schedule.Source == "" || k.Schedule.Source == source) {
			list = append(list, k)
		}
	}
	return list
}

// recur files what is due and says how many tasks that were.
func (t *term) recur(ctx context.Context) (filed int, err error) {
	t.recurAt = time.Now().Add(recurPause) // where this fails
	have, now, err := t.readSchedules(ctx)
	if err != nil {
		return 0, err
	}
	c := t.commit(holdCursor)
	earliest := now.Add(longestWait)
	for _, k := range t.r.schedules {
		p, known := have[k.Name]
		delete(have, k.Name)
		next := p.next
		switch {
		case !known || p.spec != k.Schedule.Spec():
			next = k.Schedule.Next(now)
			c.add(planSchedule, k.Name, k.Schedule.Spec(), next)
		case !p.next.After(now):
			next = k.Schedule.Next(now)
			if err := c.file(k, p.next, next); err != nil {
				return 0, err
			}
			filed++
		}
		if next.Before(earliest) {
			earliest = next
		}
	}
	if len(have) > 0 { // the catalog names them no more
		gone := make([]string, 0, len(have))
		for name := range have {
			gone = append(gone, name)
		}
		c.add(dropSchedules, gone)
	}
	if c.batch.Len() > 1 {
		if err := c.run(ctx); err != nil {
			return 0, err
		}
	}
	t.r.metrics.recurring.Add(float64(filed))
	if len(t.r.schedules) == 0 {
		t.recurAt = time.Time{}
		return 0, nil
	}
	t.recurAt = time.Now().Add(max(earliest.Sub(now), 0))
	return filed, nil
}

func (t *term) readSchedules(ctx context.Context) (have map[string]planned, now time.Time, err error) {
	rows, err := t.conn.Query(ctx, readSchedules)
	if err != nil {
		return nil, now, fmt.Errorf("postgres: read the schedules: %w", err)
	}
	defer rows.Close()
	have = map[string]planned{}
	for rows.Next() {
		var kind, spec *string
		var next *time.Time
		if err := rows.Scan(&now, &kind, &spec, &next); err != nil {
			return nil, now, fmt.Errorf("postgres: read the schedules: %w", err)
		}
		if kind != nil {
			have[*kind] = planned{*spec, *next}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, now, fmt.Errorf("postgres: read the schedules: %w", err)
	}
	return have, now, nil
}

// file adds the task of k that is due at the time from, and moves on to next.
func (c *commit) file(k *schemas.Kind, from, next time.Time) error {
	headers, err := json.Marshal(map[string]string{HeaderScheduledFor: from.UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	var expires any
	if k.ExpiresAfter > 0 {
		expires = interval(k.ExpiresAfter)
	}
	c.add(fileTask, k.Name, from, next, k.Queue, expires, string(headers), []byte(k.Schedule.Payload))
	return nil
}
