package replayer

// One slice of a job: read letters, read their claims, judge each; finish.go
// then moves or refuses them.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// nextOfPlan are the next places of a job.
const nextOfPlan = `select n, letter, ctid from perdure.replay_letters where replay = $1 and n > $2 and result = '' order by n limit $3`

// Who else has a letter is asked only while planning ($4): a run is told by the
// compare-and-set. Rows are found by the letter before anything else is asked of them
// (offset 0), each by itself: of a plan that was just frozen Postgres has no figures,
// and by those of other plans it may read all letters that there are, for each slice.
const readLetters = `
select rl.n, rl.letter, d.letter is not null, coalesce(d.task_id, ''), coalesce(d.epoch, 0), coalesce(d.kind, ''), coalesce(d.queue, ''),
  coalesce(d.state, ''), coalesce(d.reason, ''), coalesce(d.error_class, ''), coalesce(d.run, 0), coalesce(d.cut, false), coalesce(length(d.payload), 0),
  coalesce(d.block, false), coalesce(d.place, d.origin_offset, 0), d.record_key, d.headers, coalesce(d.content_type, ''), coalesce(d.deadline <= clock_timestamp(), false),
  coalesce((select outcome from perdure.resolutions where task_id = d.task_id), ''),
  case when $4 then coalesce((
    select o.replay from (select replay, result from perdure.replay_letters where letter = rl.letter offset 0) o join perdure.replays r on r.replay = o.replay
    where o.replay <> $1 and o.result = '' and r.state in ('canary', 'ramping', 'running', 'paused') limit 1), '') else '' end, d.state_at, d.letter_at
from unnest($2::bigint[], $3::text[]) rl(n, letter)
left join lateral (
  select l.*, s.state, s.ctid as state_at, l.ctid as letter_at from perdure.letters l join perdure.letter_states s on s.letter = l.letter where l.letter = rl.letter offset 0) d on true
order by rl.n`

// slice moves or refuses the next letters of a job, at most n; left says that
// there may be more.
func (r *Replayer) slice(ctx context.Context, j *job, n int) (left bool, err error) {
	p := r.passed[j.id]
	after := max(p.to, j.doneTo)
	list, more, err := r.judged(ctx, j, after, n)
	if err != nil || len(list) == 0 {
		return false, err
	}
	if why, err := r.heldBack(ctx, j, list); err != nil || why != "" {
		j.stuck = why
		return false, err
	}
	last := list[len(list)-1].n
	if more && j.rate() <= 0 && j.state == Running && j.spec.Fixer == nil {
		r.readAhead(ctx, j, last, n)
	}
	done, err := r.finish(ctx, j, list)
	if err != nil {
		return false, fmt.Errorf("letters %s to %s: %w", list[0].id, list[len(list)-1].id, err)
	}
	if done == len(list) && j.doneTo == after {
		j.doneTo = last
	}
	r.passed[j.id] = p.behind(last, j.doneTo, r.lookBack)
	return more, nil
}

// pass is how far a process has come through a job's plan.
type pass struct {
	to    int64 // letters up to this n were looked at
	again int64 // no look back before this n
}

// farBehind is how many letters a pass goes on behind the first that it left out: what is
// left of a plan is looked for from that one on, by whoever asks. Nearly always it moves now.
const farBehind = 50_000

// behind is the pass that has come to last, where all up to doneTo are done; once that is
// far behind, a new one from there on. If that leaves out the same, the next comes when it
// is twice as far: no letter is read over more than a few times.
func (p pass) behind(last, doneTo, far int64) pass {
	p.to = last
	if back := last - doneTo; back >= far && last >= p.again {
		return pass{again: last + back}
	}
	return p
}

// look judges the next letters of a plan, and moves none. Those of completed
// tasks are closed, as in a run.
func (r *Replayer) look(ctx context.Context, j *job) (pause time.Duration, err error) {
	list, _, err := r.judged(ctx, j, j.looked, r.atOnce(j))
	if err != nil {
		return 0, err
	}
	if len(list) == 0 {
		if j.stuck != "" {
			return 0, r.become(ctx, j, Stopped, j.stuck)
		}
		if j.dryRun {
			return 0, r.become(ctx, j, Done, "")
		}
		return 0, r.become(ctx, j, Planned, "")
	}
	var refused, stopped []*letter
	completed := map[string][]string{} // by why
	for i := range list {
		l := &list[i]
		if l.why != "" || j.dryRun {
			refused = append(refused, l)
		}
		if l.stopped && !j.dryRun {
			stopped = append(stopped, l)
		}
		if l.why.completed() && l.found && !j.dryRun {
			completed[l.why.text()] = append(completed[l.why.text()], l.taskID)
		}
	}
	if err := r.settle(ctx, j, completed); err != nil {
		return 0, err
	}
	if err := r.hold(ctx, j, stopped); err != nil {
		return 0, err
	}
	if err := r.sample(ctx, j, list); err != nil {
		return 0, err
	}
	if _, err := r.note(ctx, j, refused, list[len(list)-1].n); err != nil || j.stuck == "" {
		return 0, err
	}
	return 0, r.become(ctx, j, Stopped, j.stuck)
}

// judged reads the next letters after a place in the job, with why each may not
// go, repaired where the plan says so; more: there may be more behind them.
func (r *Replayer) judged(ctx context.Context, j *job, after int64, n int) (list []letter, more bool, err error) {
	if list = r.readBefore(j, after, n); list == nil {
		list, err = r.next(ctx, j, after, n)
	}
	if err != nil || len(list) == 0 {
		return nil, false, err
	}
	more = len(list) == n
	r.step("read")
	done, err := r.consult(ctx, j, list)
	if err != nil {
		return nil, false, err
	}
	list, more = list[:done], more || done < len(list)
	if j.spec.Fixer != nil {
		done, err := r.fix(ctx, j, list)
		if err != nil {
			return nil, false, err
		}
		list, more = list[:done], more || done < len(list)
		r.step("fixed")
	}
	var whole []*letter
	for i := range list {
		l := &list[i]
		if l.why == "" && l.fixed == nil && !l.unasked && r.deps.Catalog.Kinds[l.kind].Schema != nil && schemas.IsJSON(l.row.contentType) {
			whole = append(whole, l)
		}
	}
	if err := r.checkPayloads(ctx, whole); err != nil {
		return nil, false, err
	}
	r.step("judged")
	return list, more, nil
}

// next reads letters that were not looked at yet, with why each may not go as far as its
// row and its claim tell. It begins where this process was: passing over a million
// finished rows in every slice would take the time.
func (r *Replayer) next(ctx context.Context, j *job, after int64, n int) ([]letter, error) {
	rows, err := r.deps.DB.Query(ctx, nextOfPlan, j.id, after, n)
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	var ns []int64
	var ids []string
	var marks []pgtype.TID
	var n64 int64
	var id string
	var mark pgtype.TID
	if _, err := pgx.ForEachRow(rows, []any{&n64, &id, &mark}, func() error {
		ns, ids, marks = append(ns, n64), append(ids, id), append(marks, mark)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	// In parts: while one waits for the disk or for claims, another is read.
	list := make([]letter, len(ns))
	for i := range list {
		list[i].markAt = marks[i]
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(readers)
	size := max(leastPart, (len(ns)+readers-1)/readers)
	for from := 0; from < len(ns); from += size {
		to := min(from+size, len(ns))
		all.Go(func() error {
			if err := r.read(ctx, j, ns[from:to], ids[from:to], list[from:to]); err != nil {
				return err
			}
			return r.weigh(ctx, list[from:to])
		})
	}
	return list, all.Wait()
}

// readers is how many sessions read a slice.
const readers = 3

// read fills list with the letters of places.
func (r *Replayer) read(ctx context.Context, j *job, ns []int64, ids []string, list []letter) error {
	rows, err := r.deps.DB.Query(ctx, readLetters, plannedEachTime, j.id, ns, ids, j.state == Planning)
	if err != nil {
		return fmt.Errorf("read letters: %w", err)
	}
	defer rows.Close()
	for i := 0; rows.Next(); i++ {
		l := &list[i]
		var state, reason string
		if err := rows.Scan(&l.n, &l.id, &l.found, &l.taskID, &l.epoch, &l.kind, &l.queue, &state, &reason, &l.class, &l.run, &l.cut, &l.size,
			&l.block, &l.place, &l.key, &l.headers, &l.contentType, &l.expired, &l.ended, &l.taken, &l.stateAt, &l.letterAt); err != nil {
			return fmt.Errorf("read letters: %w", err)
		}
		l.state, l.reason, l.named = schemas.LetterState(state), schemas.Reason(reason), j.named
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read letters: %w", err)
	}
	return nil
}

// weigh says of letters that were read why each may not go: by its row, by what its
// headers tell, and by its claim.
func (r *Replayer) weigh(ctx context.Context, list []letter) error {
	var ids []string
	var at []int
	for i := range list {
		l := &list[i]
		if !l.found {
			if _, err := schemas.ParseID(l.id); err == nil { // a task that a person named
				ids, at = append(ids, l.id), append(at, i)
			}
			l.why = noLetter(claims.Claim{}) // until its claim says more
			continue
		}
		if l.why = before(l, r.deps.Catalog); l.why == "" {
			l.row, l.why = rebuild(l)
		}
		if l.why == "" {
			ids, at = append(ids, l.taskID), append(at, i)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	known, err := r.deps.Claims.Get(ctx, ids...)
	if err != nil {
		return fmt.Errorf("read %d claims: %w", len(ids), err)
	}
	for k, i := range at {
		l := &list[i]
		l.claim = known[k]
		if !l.found {
			l.why = noLetter(l.claim)
			continue
		}
		if l.why = judge(l, l.claim, r.deps.Catalog.Kinds[l.kind]); l.why == "" && l.reason == schemas.ReasonUnknown {
			l.why = refuse(unknownWord, "its effect may have happened")
		}
	}
	return nil
}

// checkPayloads refuses letters whose payload no longer fits its kind's schema:
// the relay would only bury them again. Payloads are read some megabytes at a time.
func (r *Replayer) checkPayloads(ctx context.Context, list []*letter) error {
	at := map[string]*letter{}
	for len(list) > 0 {
		var ids []string
		size := 0
		clear(at)
		for len(list) > 0 && (len(ids) == 0 || size+list[0].size <= maxMoved) {
			l := list[0]
			list = list[1:]
			if l.why == "" {
				ids, size, at[l.id] = append(ids, l.id), size+l.size, l
			}
		}
		rows, err := r.deps.DB.Query(ctx, `select letter, payload from perdure.letters where letter = any($1::text[])`, ids)
		if err != nil {
			return fmt.Errorf("read payloads: %w", err)
		}
		var id string
		var payload []byte
		if _, err := pgx.ForEachRow(rows, []any{&id, &payload}, func() error {
			l := at[id]
			l.why = misfit(r.deps.Catalog.Kinds[l.kind], payload, l.row.contentType)
			return nil
		}); err != nil {
			return fmt.Errorf("read payloads: %w", err)
		}
	}
	return nil
}
