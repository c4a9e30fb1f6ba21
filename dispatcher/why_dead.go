package dispatcher

// Settled: dead, completed, cancelled, discarded.

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

const (
	findGroup = `
select d.fingerprint, d.died_at, (select count(*) from (
    select from perdure.letter_states o where o.fingerprint = d.fingerprint and o.state = 'open' limit 100000) n)
from perdure.letter_states d where d.letter = $1`
	// The replay that has the letter and has not moved it yet.
	findPlan = `
select r.replay, r.state, r.note, r.approval <> '' and r.approved_by = '' from perdure.replay_letters l join perdure.replays r on r.replay = l.replay
where l.letter = $1 and l.result = '' and not r.dry_run and r.state not in ('done', 'stopped', 'cancelled')
order by r.created_at desc limit 1`
)

func (a *asking) dead() (*Why, error) {
	l := a.t.lastLetter()
	if a.v.Letter == "" || l == nil {
		return a.notIndexed()
	}
	var group string
	var same int64
	died := l.died
	if err := a.history.deps.DB.QueryRow(a.ctx, findGroup, l.id).Scan(&group, &died, &same); err != nil {
		return nil, fmt.Errorf("find its group: %w", err)
	}
	why := fmt.Sprintf("is dead since %s: %s", a.at(died), l.reason)
	if text := failure(l.class, l.message); text != "" {
		why += ", " + text
	}
	w, err := a.inPlan(l, why)
	if err != nil {
		return nil, err
	}
	switch {
	case w != nil:
	case l.reason == string(schemas.ReasonBlocked):
		return a.blocked(l)
	case l.state == string(schemas.LetterHeld):
		w = a.say(CauseLetterHeld, "perdure dlq show "+output.Word(l.id), "%s; its letter is held, so that no policy and no plan by group moves it: only a replay that names it", why)
	case same > 1:
		w = a.say(CauseDead, "perdure replay plan --group "+output.Word(group), "%s; %s letters of group %s are open", why, atLeast(same), group)
	default:
		w = a.say(CauseDead, "perdure dlq show "+output.Word(l.id), "%s; it is the only open letter of group %s", why, group)
	}
	return w.since(died).found("reason", l.reason, "group", group, "open_in_group", same, "letter", l.id, "error_class", l.class), nil
}

// findBlock is the letter that the lines' order makes the first to settle: the
// oldest of those that block the key.
const findBlock = `
select letter, reason, state, (select count(*) from (select from perdure.letter_states w
  where w.queue = d.queue and w.line = d.line and w.reason = 'blocked' and w.state = 'held' limit 10000) n)
from perdure.letter_states d
where queue = $1 and line = $2 and block and state in ('open', 'held', 'replaying') order by place, died_at limit 1`

// blocked is a task that waits behind a dead one of its key (on_dead: block).
func (a *asking) blocked(l *letterTrace) (*Why, error) {
	var by, reason, state string
	var waiting int64
	err := a.history.deps.DB.QueryRow(a.ctx, findBlock, l.queue, l.key).Scan(&by, &reason, &state, &waiting)
	if errors.Is(err, pgx.ErrNoRows) {
		return a.say(CauseBlocked, "perdure replayer", "waits since %s for its turn: what its key waited for is settled, and a replayer is about to let it go on", a.at(l.died)).since(l.died), nil
	}
	if err != nil {
		return nil, fmt.Errorf("find what its key waits for: %w", err)
	}
	var w *Why
	if state == string(schemas.LetterReplaying) {
		w = a.say(CauseBlocked, "perdure why "+output.Word(by), "waits since %s behind letter %s of its key (%s), which is being replayed", a.at(l.died), by, reason)
	} else {
		w = a.say(CauseBlocked, "perdure replay start --id "+output.Word(by)+" --yes", "waits since %s behind letter %s of its key (%s): its kind has on_dead: block, and goes on by itself when that letter is replayed and completed, or discarded",
			a.at(l.died), by, reason)
	}
	return w.since(l.died).found("blocked_by", by, "reason", reason, "waiting", waiting, "letter", l.id), nil
}

// inPlan finds a replay that is to move the letter; nil if there is none.
func (a *asking) inPlan(l *letterTrace, why string) (*Why, error) {
	var replay, state, note string
	var unapproved bool
	err := a.history.deps.DB.QueryRow(a.ctx, findPlan, l.id).Scan(&replay, &state, &note, &unapproved)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the replay that has it: %w", err)
	}
	verb := "status"
	switch {
	case unapproved:
		verb, state = "approve", state+", and another person must approve it"
	case state == "planned", state == "approved":
		verb = "start"
	case state == "paused":
		verb = "resume"
	}
	if note != "" {
		state += ": " + failure("", note)
	}
	return a.say(CauseInPlan, "perdure replay "+verb+" "+output.Word(replay), "%s; replay %s is to replay it, and is %s", why, replay, state).
		found("replay", replay), nil
}

// notIndexed follows a death whose letter the index has not read.
func (a *asking) notIndexed() (*Why, error) {
	names := a.history.deps.Names
	n, err := a.deps.Groups.Members(a.ctx, names.IndexGroup(a.history.deps.Source))
	if err != nil {
		return nil, &awayError{"Kafka", err}
	}
	why := "is dead"
	if a.v.Reason != "" {
		why += ": " + string(a.v.Reason)
	}
	if n == 0 {
		return a.say(CauseNotIndexed, "perdure replayer", "%s; its letter is on %s, and no replayer runs that would put it into the index", why, names.DLQ(a.v.Queue)), nil
	}
	return a.say(CauseNotIndexed, "perdure dlq ls --queue "+output.Word(a.v.Queue), "%s; the index has not read its letter on %s yet", why, names.DLQ(a.v.Queue)), nil
}

func (a *asking) completed() *Why {
	get := "perdure tasks get " + output.Word(a.id)
	if a.v.Inferred {
		return a.say(CauseCompleted, get, "is completed, as far as is left to see: Redis no longer knows it, its record is committed, and it left no letter").found("inferred", true)
	}
	when := a.lastAt("completed")
	if when.IsZero() {
		when = a.lastAt("result")
	}
	text := "is completed"
	switch relayed := a.lastAt("relayed"); {
	case !when.IsZero():
		text += " at " + a.at(when)
	case !relayed.IsZero():
		text += "; when is not recorded, it was relayed at " + a.at(relayed)
	}
	if a.v.Epoch > 0 {
		text += fmt.Sprintf("; it was replayed %s", plural(int64(a.v.Epoch), "time", "times"))
	}
	if n := len(a.v.Result); n > 0 {
		text += fmt.Sprintf("; it left a result of %d bytes", n)
	}
	return a.say(CauseCompleted, get, "%s", text).since(when)
}

func (a *asking) cancelled() *Why {
	w := a.say(CauseCancelled, "perdure tasks get "+output.Word(a.id), "is cancelled and will not run")
	if at := a.lastAt("cancelled"); !at.IsZero() {
		w.Why = "is cancelled since " + a.at(at) + " and will not run"
		w.since(at)
	}
	return w
}

func (a *asking) discarded() *Why {
	l := a.t.lastLetter()
	return a.say(CauseDiscarded, "perdure dlq show "+output.Word(a.v.Letter), "is discarded since %s: it was dead (%s), and its letter was given up", a.at(l.changed), l.reason).
		since(l.changed).found("reason", l.reason, "letter", l.id)
}
