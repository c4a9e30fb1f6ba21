package dispatcher

// Ids under which nothing is known, and what is known of that.

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

const (
	ownerOfRow = `select coalesce(task_id, '') from perdure.outbox_task($1) where generation <= $2 order by generation desc limit 1`
	lastGiven  = `select s.generation, case when q.is_called then q.last_value else q.last_value - 1 end from perdure.source s, perdure.outbox_id_seq q`
)

func (a *asking) unknown(because error) (*Why, error) {
	source := a.history.deps.Source
	id, err := schemas.ParseID(a.id)
	switch {
	case err != nil:
		return a.say(CauseNeverAccepted, "perdure why --help",
			"this is no task's id: one is <source>-<generation>-<seq>, as enqueue answered it, for example %s-1-42", source), nil
	case id.Source != source:
		return a.say(CauseOtherSource, "PERDURE_API_URL=http://DISPATCHER-OF-"+strings.ToUpper(id.Source)+" perdure why "+output.Word(a.id),
			"it is of source %s, and this dispatcher knows the tasks of %s alone", id.Source, source).found("source", id.Source, "asked", source), nil
	case errors.Is(because, ErrHistoryGone):
		return a.say(CauseHistoryGone, "perdure config",
			"it was accepted, and all that was written of it is older than PERDURE_HISTORY and gone"), nil
	}
	var generation int
	var last int64
	if err := a.history.deps.DB.QueryRow(a.ctx, lastGiven).Scan(&generation, &last); err != nil {
		return nil, fmt.Errorf("read the outbox's sequence: %w", err)
	}
	if id.Generation > generation {
		return a.say(CauseNeverAccepted, "perdure outbox status", "no task has this id: the outbox of %s is in its generation %d", source, generation).
			found("generation", generation), nil
	}
	if id.Seq > last && id.Generation == generation {
		return a.say(CauseNeverAccepted, "perdure outbox status", "no task has this id: the highest that %s has given out is %s",
			source, schemas.ID{Source: source, Generation: generation, Seq: last}).found("last", last), nil
	}
	var of string
	err = a.history.deps.DB.QueryRow(a.ctx, ownerOfRow, id.Seq, id.Generation).Scan(&of)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return nil, fmt.Errorf("find whose row it is: %w", err)
	case of != "":
		return a.say(CauseReplayRow, "perdure why "+output.Word(of), "no task has this id: its number went to a replay of %s", of).found("task_id", of), nil
	}
	return a.uncommitted()
}

// uncommitted follows an id that was given out and that no committed row has.
func (a *asking) uncommitted() (*Why, error) {
	o, err := a.deps.Outbox(a.ctx)
	if err != nil {
		return nil, err
	}
	for i := range o.Open { // the oldest first
		t := &o.Open[i]
		if !t.Writes {
			continue
		}
		since := ""
		if !t.Since.IsZero() {
			since = " since " + a.at(t.Since)
		}
		return a.say(CauseNotCommitted, "perdure outbox status",
			"no committed task has this id, and %s holds a transaction open%s that has written to the outbox: if that one enqueued it, it is accepted when that commits and not before", t.Name, since).
			since(t.Since).found("transaction", t.Name), nil
	}
	return a.say(CauseRolledBack, "perdure outbox status",
		"no task has this id: it was given out, no committed row has it, and no transaction that writes the outbox is open, so the one that took it rolled back"), nil
}
