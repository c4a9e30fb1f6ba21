package dispatcher

// Accepted, and not in Kafka yet.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

// Where the newest row of the task is: its own, or its last replay's. passed: the
// cursor is beyond it.
const findPlace = `
select 'held', held_at, null::timestamptz, was, coalesce(headers->>'scheduled_for', ''), false, 0 from perdure.held where id = $1
union all
select 'parked', parked_at, null, why, coalesce(headers->>'scheduled_for', ''), false, 1 from perdure.parked where id = $1
union all
select 'scheduled', created_at, due, '', coalesce(headers->>'scheduled_for', ''), false, 2 from perdure.scheduled where id = $1
union all
select 'outbox', o.created_at, o.run_at, '', coalesce(o.headers->>'scheduled_for', ''), coalesce(pg_visible_in_snapshot(o.xid, c.prev)
    or (pg_visible_in_snapshot(o.xid, c.upto) and o.id <= c.at_id), false), 3
from perdure.outbox_task($1) o left join perdure.relay_cursor c on c.shard = $2
order by 7 limit 1`

type place struct {
	what      string // held, parked, scheduled, outbox
	at        time.Time
	due       *time.Time
	why       string
	scheduled string // the time that the catalog's schedule filed it for; "" = it was enqueued
	passed    bool
}

// patience is how long a row may wait for a relay that lives before that is told
// as being behind.
const relayPatience = 5 * time.Second

func (a *asking) inPostgres() (*Why, error) {
	seq := a.t.id.Seq
	if n := len(a.t.hops); n > 0 {
		seq = a.t.hops[n-1].seq
	}
	var p place
	var rank int
	err := a.history.deps.DB.QueryRow(a.ctx, findPlace, seq, a.history.deps.Source).Scan(&p.what, &p.at, &p.due, &p.why, &p.scheduled, &p.passed, &rank)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("find where its row is: %w", err)
	}
	o, err := a.deps.Outbox(a.ctx)
	if err != nil {
		return nil, err
	}
	switch p.what {
	case "held":
		return a.say(CauseHeld, "perdure outbox status",
			"waits: an outbox reset took it out of the way at %s, because Kafka may have it already; release or discard it, it is seq %d", a.at(p.at), seq).
			since(p.at).found("seq", seq), nil
	case "parked":
		return a.parked(&p, &o), nil
	case "scheduled", "outbox":
		if p.due != nil && p.due.After(a.now) {
			return a.scheduled(&p, &o)
		}
		if p.what == "scheduled" || !p.passed {
			return a.unrelayed(&p, &o)
		}
	}
	return a.say(CauseNothing, "perdure outbox status",
		"waits: the relay has passed its row, and neither the relay's log nor a table of waiting tasks has it (yet): nothing is known that holds it").since(p.at), nil
}

func (a *asking) parked(p *place, o *OutboxFacts) *Why {
	command := "perdure doctor"
	switch text := strings.ToLower(p.why); {
	case strings.Contains(text, "topics plan"), strings.Contains(text, "unknown topic"), strings.Contains(text, "too large"), strings.Contains(text, "message_too_large"):
		command = "perdure topics plan"
	}
	n := o.Parked[a.v.Queue]
	others := ""
	if n > 1 {
		others = " with " + plural(n-1, "other", "others")
	}
	w := a.say(CauseParked, command, "waits: it is parked%s of queue %s since %s, because its topic takes nothing: %s", others, a.v.Queue, a.at(p.at), failure("", p.why))
	if !o.Alive {
		w.Why += "; and no relay runs that would try again"
	}
	return w.since(p.at).found("queue", a.v.Queue, "parked", n, "why", p.why)
}

func (a *asking) scheduled(p *place, o *OutboxFacts) (*Why, error) {
	w := a.say(CauseScheduled, "perdure tasks get "+output.Word(a.id), "waits: it is scheduled for %s", a.at(*p.due))
	if !o.Alive {
		w.Why += "; no relay runs now, and without one it will not go"
		w.Command = "perdure relay"
	}
	return w.until(*p.due).since(p.at), nil
}

// unrelayed follows a row that a relay would send now.
func (a *asking) unrelayed(p *place, o *OutboxFacts) (*Why, error) {
	waits, from := "since "+a.at(p.at), p.at
	if p.due != nil {
		waits, from = "since it was due at "+a.at(*p.due), *p.due
	}
	if p.scheduled != "" {
		waits += " (filed by its kind's schedule for " + p.scheduled + ")"
	}
	w, err := a.byRelay(o, from, waits)
	if err != nil {
		return nil, err
	}
	w = w.found("backlog", o.Backlog, "backlog_seconds", o.Oldest.Seconds())
	if w.Since == nil {
		w = w.since(from)
	}
	return w, nil
}

func (a *asking) byRelay(o *OutboxFacts, from time.Time, waits string) (*Why, error) {
	rows := "no other waits"
	if o.Backlog > 1 {
		rows = fmt.Sprintf("%s rows wait in all, the oldest for %s", atLeast(o.Backlog), span(o.Oldest))
	}
	if !o.Alive {
		return a.noRelay(o, waits, rows)
	}
	lease := fmt.Sprintf("relay %s (fence %d) has the lease", o.Owner, o.Fence)
	if a.now.Sub(from) < relayPatience {
		return a.say(CauseRelayNext, "perdure tasks get "+output.Word(a.id)+" --wait 10s", "waits for the relay's next pass %s; %s", waits, lease).
			found("relay", o.Owner, "fence", o.Fence), nil
	}
	if a.v.Queue != "" {
		ctx, cancel := context.WithTimeout(a.ctx, askKafka)
		defer cancel()
		_, err := a.deps.Groups.Group(ctx, a.history.deps.Names.WorkerGroup(a.v.Queue), a.history.deps.Names.Tasks(a.v.Queue), 0)
		if err != nil {
			return a.say(CauseKafkaAway, "perdure doctor", "waits in the outbox %s: Kafka does not answer, here at least (%s); %s, and %s", waits, failure("", err.Error()), lease, rows).
				found("relay", o.Owner), nil
		}
	}
	moved := "its cursor has never moved"
	if !o.MovedAt.IsZero() {
		moved = "its cursor moved last at " + a.at(o.MovedAt)
	}
	return a.say(CauseRelayBehind, "perdure outbox status", "waits in the outbox %s: the relay is behind; %s, %s, and %s", waits, rows, lease, moved).
		found("relay", o.Owner, "fence", o.Fence), nil
}

// askKafka bounds a question that is only there to tell why another waits.
const askKafka = 5 * time.Second

func (a *asking) noRelay(o *OutboxFacts, waits, rows string) (*Why, error) {
	none := "no relay has ever run here"
	if o.Owner != "" {
		none = fmt.Sprintf("no relay runs: the lease of the last, %s, ended at %s", o.Owner, a.at(o.Until))
	}
	stop, err := a.deps.Halted(a.ctx)
	if stop == "" {
		w := a.say(CauseNoRelay, "perdure relay", "waits in the outbox %s: %s; %s", waits, none, rows)
		if err != nil {
			w.Why += "; whether one would halt could not be examined (" + failure("", err.Error()) + ")"
		}
		return w.since(o.Until).found("relay", o.Owner), nil
	}
	command := "perdure outbox reset --dry-run"
	if !strings.Contains(stop, "outbox reset") { // another address mends it
		command = "perdure config"
	}
	return a.say(CauseRelayHalted, command, "waits in the outbox %s: %s, and one that is started now would halt: %s; %s", waits, none, strings.TrimPrefix(stop, "relay halted "), rows).
		since(o.Until).found("relay", o.Owner, "halt", stop), nil
}

// ordered reports whether the task waits for those of its key.
func (a *asking) ordered() bool {
	return a.kind != nil && a.kind.Ordered && a.v.Key != "" && a.v.State != schemas.StateRunning
}
