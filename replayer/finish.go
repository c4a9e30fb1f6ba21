package replayer

// Moving and refusing the letters of a slice, many a statement: each letter's
// compare-and-set, outbox row, audit row and mark in the job commit together.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/perdure/perdure/schemas"
)

// moveLetters is the whole of a replay: for each letter either all of it
// happens, once, or none. READ COMMITTED: a rival's update of a letter is waited
// for, and then seen. Letters are locked in one order, as the index locks them;
// outbox ids follow the job's order, among the letters of one statement and so among
// those of one key (beside.go). countMoved commits with it.
//
// Rows are found where they were read (ctid), not by their keys again. One that was
// changed or vacuumed away since is not there any more: its letter stays for a later look.
// A mark that a rival writes meanwhile is waited for last; so what went is told with how
// many marks say so, and where they are fewer, nothing went (commitMove).
//
// No step may be planned by a guess of how many rows there are: of a plan that was
// just frozen Postgres has no figures, and takes it for one row. So what is asked of each
// letter is a scalar subquery, one probe; outbox ids are taken in s, in this
// transaction (PROTOCOL section 1), so that no letter is joined with its row; and joins
// are loops, which also keeps the order of p (oneByOne). It is planned each time, for the
// tables as they are then.
const moveLetters = `
with j as materialized (
  select replay, case when state = 'canary' then greatest($8::bigint - replayed, 0) end as room
  from perdure.replays where replay = $1 and state in ('canary', 'ramping', 'running')),
i as materialized (
  select u.* from j, unnest($2::bigint[], $3::text[], $4::int[], $5::text[], $6::text[], $7::jsonb[], $10::bytea[], $11::int[], $12::text[], $13::tid[], $14::tid[], $15::tid[])
    u(n, letter, epoch, key, content_type, headers, fixed, repair, task_id, mark_at, state_at, letter_at)
  order by u.n limit (select room from j)),
p as materialized (
  select * from i
  where (select r.result from perdure.replay_letters r where r.ctid = i.mark_at and r.replay = $1 and r.n = i.n) = ''
    and (select x.task_id from perdure.resolutions x where x.task_id = i.task_id) is null
  order by letter),
u as (
  update perdure.letter_states d set state = 'replaying', replays = replays + 1, changed_at = clock_timestamp()
  from p join perdure.letters t on t.ctid = p.letter_at and t.letter = p.letter
  where d.ctid = p.state_at and d.letter = p.letter and d.epoch = p.epoch and (d.state = 'open' or $9 and d.state = 'held')
  returning p.n, p.key, p.content_type, p.headers, d.letter, p.task_id, d.epoch + 1 as epoch, d.kind, d.queue, coalesce(p.fixed, t.payload) as payload, t.deadline, p.repair, p.mark_at),
s as materialized (select nextval('perdure.outbox_id_seq') as id, o.* from (select * from u order by n) o),
o as (
  insert into perdure.outbox (id, epoch, task_id, kind, queue, key, content_type, headers, payload, deadline)
  select id, epoch, task_id, kind, queue, key, content_type, headers, payload, deadline from s),
f as (
  insert into perdure.replay_fixes (replay, n, letter, payload, repair) select $1, n, letter, payload, repair from s where repair is not null
  on conflict (replay, n) do update set payload = excluded.payload, repair = excluded.repair, moved = true, at = clock_timestamp()),
m as materialized (select n, id, mark_at from s),
r as (
  update perdure.replay_letters r set result = 'replayed', seq = m.id, done_at = clock_timestamp()
  from m where r.ctid = m.mark_at and r.n = m.n and r.replay = $1 and r.result = ''
  returning r.n)
select n, letter, id, (select count(*) from r) from s`

// noteLetters takes the job's row first, and joins by both columns of a letter's key, never by
// a constant one, for which all letters of the job would be read.
const noteLetters = `
with j as materialized (select replay from perdure.replays where replay = $1 and state in ('planning', 'canary', 'ramping', 'running') for update),
w as materialized (select j.replay, x.* from j, unnest($2::bigint[], $3::text[], $4::text[]) x(n, result, detail)),
u as (
  update perdure.replay_letters r set result = w.result, detail = w.detail, done_at = clock_timestamp()
  from w where r.replay = w.replay and r.n = w.n and r.result = ''
  returning r.result),
c as (
  update perdure.replays r set refused = r.refused + s.refused, replayed = r.replayed + s.would, looked = greatest(looked, $5), changed_at = clock_timestamp()
  from j, (select count(*) filter (where result = 'refused') as refused, count(*) filter (where result = 'would_replay') as would from u) s
  where r.replay = j.replay)
select result from u`

// Only open and held letters: one that is being replayed is settled by the index. That a task is
// completed is true whatever the job's state is, so its row is not asked. A unique
// key that the task held is given back with its letter; k is joined so that it is
// asked at all.
const settleCompleted = `
with p as materialized (
  select d.letter, t.task_id from perdure.letters t join perdure.letter_states d on d.letter = t.letter
  where t.task_id = any($1::text[]) and d.state in ('open', 'held') and t.reason <> 'undecodable'
  order by d.letter for update of d),
l as (
  update perdure.letter_states d set state = 'resolved', resolved_by = 'completed', changed_at = clock_timestamp()
  from p where d.letter = p.letter and d.state in ('open', 'held') returning d.letter, p.task_id),
k as materialized (select perdure.release_unique(array_agg(task_id)) from l)
insert into perdure.audit (who, what, letter, replay, why, details)
select $2, 'letter.resolve', letter, $3, $4, jsonb_build_object('hash', $5::text) from l cross join k`

// maxMoved bounds the payloads that one statement copies, in bytes.
const maxMoved = 16 << 20

// finish moves or refuses letters that were judged. done is of how many it is known that
// they are either now.
func (r *Replayer) finish(ctx context.Context, j *job, list []letter) (done int, err error) {
	var move, rest []*letter
	completed := map[string][]string{} // by why
	for i := range list {
		l := &list[i]
		if l.why == "" {
			move = append(move, l)
			continue
		}
		if l.why.completed() && l.found {
			completed[l.why.text()] = append(completed[l.why.text()], l.taskID)
		}
		rest = append(rest, l)
	}
	for len(move) > 0 {
		n, size := 0, 0
		for n < len(move) && (n == 0 || size+move[n].size <= maxMoved) {
			size += move[n].size
			n++
		}
		moved, outrun, err := r.moveBeside(ctx, j, move[:n])
		if err != nil {
			return done, err
		}
		done += moved
		for _, l := range outrun {
			if l.why.completed() {
				completed[l.why.text()] = append(completed[l.why.text()], l.taskID)
			}
		}
		rest, move = append(rest, outrun...), move[n:]
		r.step("moved")
	}
	if err := r.settle(ctx, j, completed); err != nil {
		return done, err
	}
	if err := r.hold(ctx, j, rest); err != nil {
		return done, err
	}
	if err := r.discard(ctx, j, rest); err != nil {
		return done, err
	}
	if len(rest) == 0 {
		return done, nil
	}
	noted, err := r.note(ctx, j, rest, 0)
	return done + noted, err
}

// settle closes the letters of tasks that are completed, by why that is known.
func (r *Replayer) settle(ctx context.Context, j *job, tasks map[string][]string) error {
	for why, tasks := range tasks {
		if _, err := r.deps.DB.Exec(ctx, settleCompleted, tasks, j.who, j.id, why, j.hash); err != nil {
			return fmt.Errorf("close the letters of completed tasks: %w", err)
		}
	}
	if len(tasks) > 0 {
		r.step("settled")
	}
	return nil
}

// holdLetters takes the job's row first, as noteLetters does.
const holdLetters = `
with j as materialized (select replay from perdure.replays where replay = $3 and state in ('planning', 'canary', 'ramping', 'running') for update),
p as materialized (
  select d.letter from j, perdure.letter_states d where d.letter = any($1::text[]) and d.state = 'open' order by d.letter for update of d),
l as (
  update perdure.letter_states d set state = 'held', changed_at = clock_timestamp()
  from p where d.letter = p.letter and d.state = 'open' returning d.letter)
insert into perdure.audit (who, what, replay, why, details)
select $2, 'letters.hold', $3, $4, jsonb_build_object('hash', $5::text, 'letters', jsonb_agg(letter)) from l having count(*) > 0`

// hold leaves letters to a person: their tasks were replayed too often, or a
// fixer did not come to an end.
func (r *Replayer) hold(ctx context.Context, j *job, list []*letter) error {
	ids := map[string][]string{} // by why
	for _, l := range list {
		if l.why.held() && l.state == schemas.LetterOpen {
			ids[l.why.text()] = append(ids[l.why.text()], l.id)
		}
	}
	for why, ids := range ids {
		if _, err := r.deps.DB.Exec(ctx, holdLetters, ids, j.who, j.id, why, j.hash); err != nil {
			return fmt.Errorf("hold letters: %w", err)
		}
	}
	return nil
}

// move moves letters; it returns how many went, and those that are refused after all.
func (r *Replayer) move(ctx context.Context, j *job, list []*letter) (went int, refused []*letter, err error) {
	n := len(list)
	ns, ids, epochs := make([]int64, n), make([]string, n), make([]int32, n)
	keys, types, headers, tasks := make([]*string, n), make([]string, n), make([][]byte, n), make([]string, n)
	fixed, repairs := make([][]byte, n), make([]*int32, n)
	marksAt, statesAt, lettersAt := make([]pgtype.TID, n), make([]pgtype.TID, n), make([]pgtype.TID, n)
	for i, l := range list {
		if l.fixed != nil {
			times := int32(l.row.repairs)
			fixed[i], repairs[i] = l.fixed, &times
		}
		ns[i], ids[i], epochs[i], tasks[i] = l.n, l.id, int32(l.epoch), l.taskID
		keys[i], types[i], headers[i] = l.row.key, l.row.contentType, l.row.headers
		marksAt[i], statesAt[i], lettersAt[i] = l.markAt, l.stateAt, l.letterAt
	}
	moved, err := r.commitMove(ctx, j, j.id, ns, ids, epochs, keys, types, headers, j.spec.Canary.Letters, j.named, fixed, repairs, tasks, marksAt, statesAt, lettersAt)
	switch {
	case err == nil:
	case !refusedByData(err):
		return 0, nil, err
	case n == 1:
		// It shall not hold up the letters after it.
		list[0].why = refuse("undecodable", "Postgres refuses the outbox row of its replay: %s", err)
		return 0, list, nil
	default:
		went, a, err := r.move(ctx, j, list[:n/2])
		if err != nil {
			return went, nil, err
		}
		more, b, err := r.move(ctx, j, list[n/2:])
		return went + more, append(a, b...), err
	}
	r.letters.WithLabelValues("replayed").Add(float64(len(moved)))
	if len(moved) == n {
		return n, nil, nil
	}
	done := make(map[int64]bool, len(moved))
	for _, n := range moved {
		done[n] = true
	}
	for _, l := range list {
		if !done[l.n] {
			refused = append(refused, l)
		}
	}
	refused, err = r.outrun(ctx, j, refused)
	return len(moved), refused, err
}

// refusedByData: Postgres refuses a value or a row, so that trying again cannot help.
func refusedByData(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && len(pe.Code) == 5 && (pe.Code[:2] == "22" || pe.Code[:2] == "23" || pe.Code[:2] == "54")
}

// outrun says why letters that could go did not: someone else changed them, or
// the job, or did this very step before us.
func (r *Replayer) outrun(ctx context.Context, j *job, list []*letter) (refused []*letter, err error) {
	ids := make([]string, len(list))
	at := make(map[string]*letter, len(list))
	for i, l := range list {
		ids[i], at[l.id] = l.id, l
		l.state, l.found = "", false
	}
	rows, err := r.deps.DB.Query(ctx, `select r.state, d.letter, d.state, coalesce((select outcome from perdure.resolutions x where x.task_id = l.task_id), '') from perdure.replays r
left join (perdure.letter_states d join perdure.letters l on l.letter = d.letter) on d.letter = any($2::text[]) where r.replay = $1`, j.id, ids)
	if err != nil {
		return nil, err
	}
	var job State
	var id, state *string
	var ended string
	if _, err := pgx.ForEachRow(rows, []any{&job, &id, &state, &ended}, func() error {
		if id != nil {
			l := at[*id]
			l.state, l.found, l.ended = schemas.LetterState(*state), true, ended
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if !job.Moving() {
		return nil, nil // paused or ended: the letters stay where they are
	}
	for _, l := range list {
		// "": open again; a later look finds it.
		if l.why = before(l, r.deps.Catalog); l.why != "" {
			refused = append(refused, l)
		}
	}
	return refused, nil
}

// note marks letters as looked at, and returns how many; a plan was looked at up to
// looked, 0 = it is not being planned.
func (r *Replayer) note(ctx context.Context, j *job, list []*letter, looked int64) (noted int, err error) {
	ns, results, details := make([]int64, len(list)), make([]string, len(list)), make([]string, len(list))
	for i, l := range list {
		ns[i], results[i], details[i] = l.n, "refused", string(l.why)
		if l.why == "" {
			results[i] = "would_replay"
		}
	}
	rows, err := r.deps.DB.Query(ctx, noteLetters, plannedEachTime, j.id, ns, results, details, looked)
	if err != nil {
		return 0, err
	}
	var result string
	_, err = pgx.ForEachRow(rows, []any{&result}, func() error {
		r.letters.WithLabelValues(result).Inc()
		noted++
		return nil
	})
	return noted, err
}
