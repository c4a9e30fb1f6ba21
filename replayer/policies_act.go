package replayer

// What a policy does with a group: a replay, or a discard or hold of its letters.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

// errLease: another process took the policy over meanwhile.
var errLease = errors.New("its lease ran out")

// errNothing: no letter of a group can go.
var errNothing = errors.New("no letter can go")

// chargeLetters takes letters off the limits in the transaction that does something
// with them. An act without a replay is over with it.
const chargeLetters = `
with p as (
  update perdure.policies set total = total + $3, acts = acts + 1, acted_at = clock_timestamp(), replay = $5, judged = $5::text is null,
    strikes = case when $5::text is null and not $7 then 0 else strikes end, note = $4, told = '', changed_at = clock_timestamp()
  where policy = $1 and lease = $2 and lease > clock_timestamp() and enabled returning policy),
old as (delete from perdure.policy_minutes where policy = $1 and minute < clock_timestamp() - interval '2 hours'),
g as (
  insert into perdure.policy_groups (policy, fingerprint, turn_at) select policy, $6, clock_timestamp() from p
  on conflict (policy, fingerprint) do update set turn_at = excluded.turn_at, told = '', rest_letters = null, at = clock_timestamp())
insert into perdure.policy_minutes (policy, minute, letters) select policy, date_trunc('minute', clock_timestamp()), $3 from p
on conflict (policy, minute) do update set letters = policy_minutes.letters + excluded.letters`

func (p *Policies) charge(ctx context.Context, tx pgx.Tx, pol *schemas.Policy, s *standing, g PolicyGroup, n int64, replay *string) error {
	what := fmt.Sprintf("%s %s of group %s", pol.Action, letters(n), g.Group)
	if pol.Action == "notify" {
		what = fmt.Sprintf("tells of group %s, %s", g.Group, letters(g.Letters))
	}
	tag, err := tx.Exec(ctx, chargeLetters, pol.Name, s.lease, n, what, replay, g.Group, pol.Action == "notify")
	if err == nil && tag.RowsAffected() == 0 {
		err = errLease
	}
	return err
}

// letters is a number of them, in words.
func letters(n int64) string {
	if n == 1 {
		return "1 letter"
	}
	return fmt.Sprintf("%d letters", n)
}

func (p *Policies) act(ctx context.Context, pol *schemas.Policy, s *standing, g PolicyGroup, n int64) error {
	who, why := "policy:"+pol.Name, fmt.Sprintf("policy %s: %s letters of group %s", pol.Name, pol.Action, g.Group)
	if pol.Action == "notify" {
		return p.notify(ctx, pol, s, g)
	}
	if pol.Action != "replay" {
		return p.dispose(ctx, pol, s, who, why, g, n)
	}
	var frozen int64
	id, err := p.jobs.Plan(ctx, Plan{Who: who, Why: why, Start: true, Spec: Spec{
		Selector: Selector{Group: g.Group, Kind: pol.When.Kind, Class: pol.When.Class, Message: pol.When.Message, Reason: pol.When.Reason, MaxReplays: pol.MaxReplays},
		Where:    pol.Where, Limit: int(n), Rate: pol.Rate, Ramp: Duration(pol.Ramp),
		Canary: Canary{Letters: pol.Canary, Success: pol.Success}, Fixer: fixerNamed(pol.Fixer),
	}, policy: pol.Name, frozen: func(tx pgx.Tx, id string, letters int64) error {
		if frozen = letters; letters == 0 {
			return errNothing
		}
		return p.charge(ctx, tx, pol, s, g, letters, &id)
	}})
	var spec *SpecError
	var syntax *SyntaxError
	switch {
	case errors.Is(err, errNothing):
		return p.rest(ctx, pol, g)
	case errors.As(err, &spec), errors.As(err, &syntax):
		return p.conclude(ctx, pol, s, "its replay cannot be planned: "+err.Error(), "", false)
	case err != nil:
		return fmt.Errorf("replay group %s: %w", g.Group, err)
	}
	p.acts.WithLabelValues(pol.Name).Add(float64(frozen))
	p.log.Info(why, "letters", frozen, "replay", id)
	return nil
}

const restGroup = `
with old as (delete from perdure.policy_groups where policy = $1 and fingerprint <> $2 and at < clock_timestamp() - interval '90 days')
insert into perdure.policy_groups (policy, fingerprint, turn_at, rest_letters, rest_last, rest_as) values ($1, $2, clock_timestamp(), $3, $4, $5)
on conflict (policy, fingerprint) do update set turn_at = excluded.turn_at, rest_letters = excluded.rest_letters, rest_last = excluded.rest_last,
  rest_as = excluded.rest_as, at = clock_timestamp()`

// rest leaves a group alone until new letters come, or for restTime.
func (p *Policies) rest(ctx context.Context, pol *schemas.Policy, g PolicyGroup) error {
	_, err := p.deps.DB.Exec(ctx, restGroup, pol.Name, g.Group, g.Letters, g.Last, digest(pol))
	return err
}

// A task that is discarded holds no unique key any more: that goes with its letter.
// An undecodable letter only claims to be a task's. k is joined so that it is asked
// at all.
const disposeLetters = `
with p as materialized (
  select d.letter, l.task_id from perdure.letter_states d join perdure.letters l on l.letter = d.letter where d.fingerprint = $6 ` + matched + ` order by d.letter limit $7 for update of d),
l as (
  update perdure.letter_states d set state = $8, resolved_by = case when $8 = 'discarded' then 'discard' else '' end, changed_at = clock_timestamp()
  from p where d.letter = p.letter and d.state = 'open' returning d.letter, p.task_id, d.reason),
k as materialized (select perdure.release_unique(array_agg(task_id) filter (where reason <> 'undecodable')) from l where $8 = 'discarded')
insert into perdure.audit (who, what, letter, why) select $9, $10, letter, $11 from l cross join k`

// dispose discards or holds letters, some at a time.
func (p *Policies) dispose(ctx context.Context, pol *schemas.Policy, s *standing, who, why string, g PolicyGroup, n int64) error {
	state := map[string]schemas.LetterState{"discard": schemas.LetterDiscarded, "hold": schemas.LetterHeld}[pol.Action]
	for n > 0 {
		slice := min(n, 1000)
		var done int64
		err := pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
			args := append([]any{plannedEachTime}, matchArgs(pol)...)
			tag, err := tx.Exec(ctx, disposeLetters, append(args, g.Group, slice, string(state), who, "letter."+pol.Action, why)...)
			if err != nil {
				return err
			}
			done = tag.RowsAffected()
			return p.charge(ctx, tx, pol, s, g, done, nil)
		})
		if err != nil {
			return fmt.Errorf("%s group %s: %w", pol.Action, g.Group, err)
		}
		p.acts.WithLabelValues(pol.Name).Add(float64(done))
		if done < slice {
			return nil
		}
		n -= slice
	}
	return nil
}
