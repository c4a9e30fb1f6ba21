package replayer

// Planning: the letters that a selector chooses now are frozen, in their order,
// and hashed together with the spec.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
)

// Plan is what to plan.
type Plan struct {
	Spec
	DryRun bool   // look at every letter and say what would happen; change nothing
	Start  bool   // begin at once, without a look at every letter first
	Who    string // for the audit
	Why    string

	policy string                                          // whose it is; "" = a person's
	frozen func(tx pgx.Tx, id string, letters int64) error // in the plan's transaction; an error undoes it
}

// SpecError is a plan that says nothing that could be done.
type SpecError struct{ Fields []api.FieldError }

func (e *SpecError) Error() string {
	var b strings.Builder
	for i, f := range e.Fields {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Pointer + " " + f.Detail)
	}
	return b.String()
}

// ofPatterns has cases so that Postgres does not take a group's letters for few.
const ofPatterns = `
  and ($10 = '' or case when d.kind like $10 then true end) and ($11 = '' or case when l.error_class like $11 then true end)
  and ($12 = '' or case when l.message like $12 then true end)`

// forPolicy leaves out what its replays refused before, which only they would again.
// $13: those replays; null = a person plans.
const forPolicy = `
  and ($13::text[] is null or case when d.reason <> 'unknown' then not exists (
    select from perdure.replay_letters r where r.letter = d.letter and r.result = 'refused' and r.replay = any($13)
      and (r.detail !~ '^(running|replaying):' or r.done_at > clock_timestamp() - interval '1 hour')) end)`

const policyRefused = `
select r.replay from perdure.replays r join perdure.policies p on r.who = 'policy:' || p.policy
where p.policy = $1 and r.refused > 0 and r.created_at > p.since and r.spec -> 'fixer' is not distinct from $2::jsonb`

// Letters named by id are taken in whatever state they are, so that the job can
// say why it refuses one; an id that nothing has stays as it was written.
const chooseIDs = `
select distinct coalesce(d.letter, i) as letter, d.died_at
from unnest($1::text[]) i left join lateral (
  select letter, died_at, kind, queue, fingerprint, reason, key, epoch, error_class, message from perdure.dead_letters d where d.letter = i or d.task_id = i
  order by d.letter = i desc, d.state = 'open' desc, d.epoch desc limit 1) d on true cross join lateral (select d.error_class, d.message) l
where ($2 = '' or d.fingerprint = $2) and ($3 = '' or d.kind = $3) and ($4 = '' or d.queue = $4)
  and ($5 = '' or d.reason = $5) and ($6 = '' or d.key = $6)
  and ($7::timestamptz is null or d.died_at >= $7) and ($8::timestamptz is null or d.died_at < $8) and ($9 = 0 or d.epoch < $9) and $13::text[] is null` + ofPatterns

// Letters are found by their states, of which the open ones are passed through, the
// oldest first; those of a key by its index; and those of a kind or a queue by its index
// where they are few, each state then by its letter: Postgres would read all states to
// join them. What nobody asks of is not read: a left join of which no column is named is
// none, and an index alone tells of what it has.
const (
	chooseByState = `
select d.letter, d.died_at from perdure.letter_states d left join perdure.letters l on l.letter = d.letter
where d.state = 'open' and ($2 = '' or d.fingerprint = $2) and ($3 = '' or d.kind = $3) and ($4 = '' or d.queue = $4)
  and ($5 = '' or d.reason = $5) and ($6 = '' or l.key = $6)
  and ($7::timestamptz is null or d.died_at >= $7) and ($8::timestamptz is null or d.died_at < $8) and ($9 = 0 or d.epoch < $9) and $1::text[] is null` + ofPatterns + forPolicy
	chooseByKey = `
select l.letter, l.died_at from perdure.letters l join perdure.letter_states d on d.letter = l.letter` + openOfLetters
	chooseFew = `
select l.letter, l.died_at from perdure.letters l cross join lateral (select * from perdure.letter_states where letter = l.letter offset 0) d` + openOfLetters

	openOfLetters = `
where d.state = 'open' and ($2 = '' or d.fingerprint = $2) and ($3 = '' or l.kind = $3) and ($4 = '' or case when $3 = '' then l.queue else d.queue end = $4)
  and ($5 = '' or d.reason = $5) and ($6 = '' or l.key = $6)
  and ($7::timestamptz is null or l.died_at >= $7) and ($8::timestamptz is null or l.died_at < $8) and ($9 = 0 or d.epoch < $9) and $1::text[] is null` + ofPatterns + forPolicy
)

// areFew: of a kind's or else a queue's letters, in whatever state, each state is looked up
// sooner than the open states of all are passed through.
const areFew = `
with most as (select 10000 + greatest(reltuples, 0)::bigint / 20 as n from pg_class where oid = 'perdure.letters'::regclass)
select (select count(*) from (select from perdure.letters where ($1 = '' or kind = $1) and ($1 <> '' or queue = $2) limit (select n + 1 from most)) l) <= n from most`

const freezeRest = ` order by died_at nulls last, letter limit $14)
insert into perdure.replay_letters (replay, letter, n) select $15, letter, row_number() over (order by died_at nulls last, letter) from c`

// With a condition the letters pass through here.
const chooseWhole = ` order by died_at nulls last, letter)
select c.letter, coalesce(d.task_id, ''), coalesce(d.kind, ''), coalesce(d.queue, ''), coalesce(d.key, ''), coalesce(d.reason, ''),
  coalesce(d.error_class, ''), coalesce(d.message, ''), coalesce(d.fingerprint, ''), coalesce(d.release, ''), coalesce(d.epoch, 0),
  coalesce(d.replays, 0), coalesce(d.died_at, 'epoch'), d.payload, d.headers
from c left join perdure.dead_letters d on d.letter = c.letter order by c.died_at nulls last, c.letter`

// noLimit is what a plan without a limit takes at most.
const noLimit = 1 << 31

// Plan freezes letters, oldest death first, and returns the job's id. What is
// wrong with the plan is a *SpecError or a *SyntaxError; then nothing is planned.
func (j *Jobs) Plan(ctx context.Context, p Plan) (string, error) {
	if wrong := p.complete(); len(wrong) > 0 {
		return "", &SpecError{wrong}
	}
	var err error
	if p.Fixer, err = j.pinned(p.Fixer); err != nil {
		return "", err
	}
	where, err := j.filter(p.Where)
	if err != nil {
		return "", err
	}
	defer where.close()
	if g := &p.Selector.Group; *g != "" { // it may be merged into another
		if err := j.db.QueryRow(ctx, `select perdure.group_of($1)`, *g).Scan(g); err != nil {
			return "", fmt.Errorf("plan a replay: find group %s: %w", *g, err)
		}
	}
	id := "r-" + strings.ToLower(rand.Text()[:12])
	err = pgx.BeginFunc(ctx, j.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into perdure.replays (replay, state, selector, dry_run, who, why) values ($1, 'planning', '{}', $2, $3, $4)`,
			id, p.DryRun, p.Who, p.Why); err != nil {
			return err
		}
		before, err := p.refusedBefore(ctx, tx)
		if err != nil {
			return err
		}
		if err := freeze(ctx, tx, id, &p.Spec, before, where); err != nil {
			return err
		}
		var letters int64
		if err := tx.QueryRow(ctx, `select count(*) from perdure.replay_letters where replay = $1`, id).Scan(&letters); err != nil {
			return err
		}
		if p.frozen != nil {
			if err := p.frozen(tx, id, letters); err != nil {
				return err
			}
		}
		p.settleCanary(letters)
		spec, err := json.Marshal(&p.Spec)
		if err != nil {
			return err
		}
		selector, err := json.Marshal(&p.Selector)
		if err != nil {
			return err
		}
		state, approval := Planning, ""
		if !p.DryRun {
			if approval, err = j.needsApproval(ctx, tx, id, letters); err != nil {
				return err
			}
		}
		if p.Start && !p.DryRun && approval == "" {
			state = firstState(&p.Spec, letters)
		}
		var kept []byte
		if err := tx.QueryRow(ctx, `update perdure.replays set state = $2, selector = $3, spec = $4, letters = $5, approval = $6,
  ramp_at = case when $2 = 'ramping' then clock_timestamp() end where replay = $1 returning spec`,
			id, state, selector, spec, letters, approval).Scan(&kept); err != nil {
			return err
		}
		var as Spec // as it is read from now on
		if err := json.Unmarshal(kept, &as); err != nil {
			return err
		}
		pinned, err := hashPlan(ctx, tx, id, &as)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `update perdure.replays set hash = $2 where replay = $1`, id, pinned); err != nil {
			return err
		}
		return note(ctx, tx, p.Who, "replay.plan", id, p.Why, map[string]any{"hash": pinned, "letters": letters, "spec": json.RawMessage(spec)})
	})
	var wrong *SpecError
	if errors.As(err, &wrong) {
		return "", wrong
	}
	if err != nil {
		return "", fmt.Errorf("plan a replay: %w", err)
	}
	return id, nil
}

// firstState is where a plan with so many letters to move begins.
func firstState(s *Spec, letters int64) State {
	switch {
	case !s.Canary.Off && int64(s.Canary.Letters) < letters:
		return InCanary
	case s.Rate > 0 && s.Ramp > 0:
		return Ramping
	}
	return Running
}

func (s *Selector) args() []any {
	var ids []string
	if len(s.IDs) > 0 {
		ids = s.IDs
	}
	kind, kinds := s.Kind, "" // a kind alone is looked up
	if strings.Contains(kind, "*") {
		kind, kinds = "", like(kind)
	}
	return []any{ids, s.Group, kind, s.Queue, s.Reason, s.Key, timeOrNil(s.Since), timeOrNil(s.Until), s.MaxReplays, kinds, like(s.Class), like(s.Message)}
}

// refusedBefore are the replays of a plan's policy that refused letters with its
// fixer; nil: it is a person's.
func (p *Plan) refusedBefore(ctx context.Context, tx pgx.Tx) ([]string, error) {
	if p.policy == "" {
		return nil, nil
	}
	rows, err := tx.Query(ctx, policyRefused, p.policy, p.Fixer)
	if err != nil {
		return nil, err
	}
	return pgx.AppendRows([]string{}, rows, pgx.RowTo[string])
}

func freeze(ctx context.Context, tx pgx.Tx, id string, s *Spec, before []string, where *filter) error {
	from, limit := chooseByState, s.Limit
	args := append(s.Selector.args(), before)
	switch sel := &s.Selector; {
	case len(sel.IDs) > 0:
		from = chooseIDs
	case sel.Group != "":
	case sel.Key != "":
		from = chooseByKey
	case sel.Queue != "" || sel.Kind != "" && !strings.Contains(sel.Kind, "*"):
		var few bool
		if err := tx.QueryRow(ctx, areFew, plannedEachTime, args[2], args[3]).Scan(&few); err != nil {
			return err
		}
		if few {
			from = chooseFew
		}
	}
	if limit == 0 {
		limit = noLimit
	}
	if where == nil {
		_, err := tx.Exec(ctx, `with c as (`+from+freezeRest, append([]any{plannedEachTime}, append(args, limit, id)...)...)
		return err
	}
	return where.freeze(ctx, tx, id, `with c as materialized (`+from+chooseWhole, args, limit)
}

// hashPlan hashes a plan's letters, in their order, and its spec.
func hashPlan(ctx context.Context, tx pgx.Tx, id string, s *Spec) (string, error) {
	spec, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	rows, err := tx.Query(ctx, `select letter from perdure.replay_letters where replay = $1 order by n`, id)
	if err != nil {
		return "", err
	}
	var letter string
	if _, err := pgx.ForEachRow(rows, []any{&letter}, func() error {
		sum.Write([]byte(letter))
		sum.Write([]byte{'\n'})
		return nil
	}); err != nil {
		return "", err
	}
	sum.Write(spec)
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// needsApproval says why another person must approve a plan, "" if none need.
func (j *Jobs) needsApproval(ctx context.Context, tx pgx.Tx, id string, letters int64) (string, error) {
	if j.approveOver > 0 && letters > j.approveOver {
		return fmt.Sprintf("it has more than %d letters", j.approveOver), nil
	}
	if len(j.sensitive) == 0 {
		return "", nil
	}
	var kind string
	err := tx.QueryRow(ctx, `select d.kind from perdure.replay_letters l join perdure.letter_states d on d.letter = l.letter
where l.replay = $1 and d.kind = any($2::text[]) limit 1`, plannedEachTime, id, j.sensitive).Scan(&kind)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("it has letters of the sensitive kind %s", kind), nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
