package replayer

// Each rule by which a letter moves is broken once, in the replayer's own statement,
// and the check of what then came about must see it; with the statement as it is the
// same scenario is right.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/claims"
)

// wrongs is what a history of replays must not show, whatever happened.
func (r *rig) wrongs(canary int) (wrong []string) {
	r.t.Helper()
	for what, sql := range map[string]string{
		"a letter moved twice":                 `select count(*) from (select from perdure.outbox group by task_id, epoch having count(*) > 1) o`,
		"a completed task went":                `select count(*) from perdure.outbox o join perdure.resolutions x using (task_id)`,
		"a discarded letter went":              `select count(*) from perdure.outbox o join perdure.dead_letters d using (task_id) where d.resolved_by = 'discarded first'`,
		"a paused replay moved letters":        `select count(*) from perdure.replays r join perdure.replay_letters l using (replay) where r.state = 'paused' and l.result = 'replayed'`,
		"a letter went and nobody knows":       `select count(*) from perdure.outbox o where not exists (select from perdure.audit a where a.details -> 'letters' ? (o.task_id || '@' || o.epoch - 1))`,
		"a letter is out without a row":        `select count(*) from perdure.letter_states d where state = 'replaying' and not exists (select from perdure.outbox o where d.letter = o.task_id || '@' || o.epoch - 1)`,
		"a letter went that is open":           `select count(*) from perdure.outbox o join perdure.letter_states d on d.letter = o.task_id || '@' || o.epoch - 1 where d.state = 'open'`,
		"a letter went with another's payload": `select count(*) from perdure.outbox o join perdure.letters l on l.letter = o.task_id || '@' || o.epoch - 1 where o.payload <> l.payload`,
		"a letter is refused that may go":      `select count(*) from perdure.replay_letters where detail like '%Postgres refuses%'`,
		"a move is not counted":                `select count(*) from perdure.replays r where replayed <> (select count(*) from perdure.replay_letters l where l.replay = r.replay and l.result = 'replayed')`,
	} {
		if n := r.count(sql); n > 0 {
			wrong = append(wrong, what)
		}
	}
	if n := r.count(`select count(*) from perdure.outbox`); canary > 0 && n > canary {
		wrong = append(wrong, "more than the canary went")
	}
	return wrong
}

// A scenario lets every letter be judged, does something, and moves what was judged.
type scenario struct {
	between string // SQL; may name REPLAY, the first, and TASK, of one of the letters
	spoil   func(list []letter)
	rivals  int // replays of the same letters
	canary  int
}

func (r *rig) play(s scenario, sql statements) (wrong []string) {
	r.t.Helper()
	for _, table := range []string{"outbox", "replay_outcomes", "replays", "dead_letters", "resolutions"} {
		r.exec(`delete from perdure.` + table)
	}
	r.played += 100 // the audit is append-only: tasks of their own
	r.letters(r.played, r.played+11, nil)
	type run struct {
		x    *Replayer
		j    *job
		list []letter
	}
	var runs []run
	spec := Spec{Selector: Selector{All: true}, Canary: Canary{Letters: s.canary, Success: 1}}
	id, state := r.plan(Plan{Spec: spec, Start: true}), Running
	if s.canary > 0 {
		state = InCanary
	}
	for n := range s.rivals {
		if n > 0 && s.canary == 0 { // two processes that believe to hold one canary, else two replays
			id = r.plan(Plan{Spec: spec, Start: true})
		}
		x := r.replayer(fmt.Sprint("x", n), &known{at: map[string]claims.Claim{}})
		x.sql = sql
		j := &job{id: id, who: "t", state: state, spec: spec}
		list, _, err := x.judged(r.t.Context(), j, 0, 100)
		if err != nil {
			r.t.Fatal(err)
		}
		runs = append(runs, run{x, j, list})
	}
	if s.between != "" {
		r.exec(strings.NewReplacer("REPLAY", "'"+runs[0].j.id+"'", "TASK", fmt.Sprintf("'main-1-%d'", r.played+3)).Replace(s.between))
	}
	if s.spoil != nil {
		s.spoil(runs[0].list)
	}
	for _, one := range runs {
		if _, err := one.x.finish(r.t.Context(), one.j, one.list); err != nil {
			wrong = append(wrong, "it ends with an error: "+err.Error())
		}
	}
	return append(wrong, r.wrongs(s.canary)...)
}

// mutation replaces a part of a statement, which must be there.
type mutation struct{ part, by string }

func (s statements) broken(t *testing.T, m ...mutation) statements {
	t.Helper()
	for _, x := range m {
		if !strings.Contains(s.move+s.count, x.part) {
			t.Fatalf("the statements have no %q to break", x.part)
		}
		s.move, s.count = strings.ReplaceAll(s.move, x.part, x.by), strings.ReplaceAll(s.count, x.part, x.by)
	}
	return s
}

func TestMutationsTurnTheCheckersRed(t *testing.T) {
	r, whole := newRig(t), statements{moveLetters, countMoved}
	// Two guards: the state, and that the row is still the one that was read.
	compare := []mutation{{`(d.state = 'open' or $9 and d.state = 'held')`, `(true or $9)`}, {`d.ctid = p.state_at and`, ``}}
	for name, c := range map[string]struct {
		scenario
		broken []mutation
		want   string
	}{
		"no compare": {scenario{rivals: 2}, compare, "a letter moved twice"},
		"no look at what was decided": {scenario{rivals: 1, between: `update perdure.dead_letters set state = 'discarded', resolved_by = 'discarded first' where task_id = TASK`},
			compare, "a discarded letter went"},
		"no look at resolutions": {scenario{rivals: 1, between: `insert into perdure.resolutions (task_id, epoch, at, outcome) values (TASK, 0, now(), 'completed')`},
			[]mutation{{`and (select x.task_id from perdure.resolutions x where x.task_id = i.task_id) is null`, ``}}, "a completed task went"},
		"no look at the replay's state": {scenario{rivals: 1, between: `update perdure.replays set state = 'paused' where replay = REPLAY`},
			[]mutation{{`where replay = $1 and state in ('canary', 'ramping', 'running')`, `where replay = $1`}, {`and (state in ('ramping', 'running') or $6 and state = 'canary')`, `and $6::boolean is not null`}}, "a paused replay moved letters"},
		"no bound of the canary": {scenario{rivals: 2, canary: 4}, []mutation{{`limit (select room from j)`, ``}}, "more than the canary went"},
		"no look at whose state it is": {scenario{rivals: 1, spoil: func(list []letter) { list[0].stateAt = list[1].stateAt }},
			[]mutation{{`d.letter = p.letter and`, ``}}, "a letter went that is open"},
		"no look at whose payload it is": {scenario{rivals: 1, spoil: func(list []letter) { list[0].letterAt = list[1].letterAt }},
			[]mutation{{`and t.letter = p.letter`, ``}}, "a letter went with another's payload"},
		"no look at whose mark it is": {scenario{rivals: 1, spoil: func(list []letter) { list[0].markAt = list[1].markAt }},
			[]mutation{{`and r.replay = $1 and r.n = i.n`, ``}, {`(select count(*) from r)`, `(select count(*) from s)`}}, "a move is not counted"},
		"no look whether its payload is there": {scenario{rivals: 1, between: `update perdure.letters set message = 'written anew' where task_id = TASK`},
			[]mutation{{`from p join perdure.letters t`, `from p left join perdure.letters t`}}, "a letter is refused that may go"},
		"no outbox row": {scenario{rivals: 1}, []mutation{{`payload, deadline from s),`, `payload, deadline from s where id % 2 = 0),`}}, "a letter is out without a row"},
		"no audit":      {scenario{rivals: 1}, []mutation{{`'letters', (select`, `'others', (select`}}, "a letter went and nobody knows"},
		"no count":      {scenario{rivals: 1}, []mutation{{`set replayed = replayed +`, `set replayed = replayed + 0 *`}}, "a move is not counted"},
	} {
		if wrong := r.play(c.scenario, whole); len(wrong) > 0 {
			t.Fatalf("%s, as it is: %v", name, wrong)
		}
		if wrong := r.play(c.scenario, whole.broken(t, c.broken...)); !strings.Contains(strings.Join(wrong, "; "), c.want) {
			t.Errorf("%s: broken, it shows %q, want %q", name, wrong, c.want)
		}
	}
}
