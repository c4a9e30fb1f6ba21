package dispatcher

// Claimed: it runs, or waits after it ran.

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

func (a *asking) running() (*Why, error) {
	c := a.t.claim
	beats, err := a.deps.Life(a.ctx, c.Owner)
	if err != nil {
		return nil, &awayError{"Redis", err}
	}
	worker, from := processOf(c.Owner), a.runsSince()
	long := ""
	if !from.IsZero() {
		long = ", since " + a.at(from) + " at the earliest"
	}
	get := "perdure tasks get " + output.Word(a.id) + " --wait 30s"
	var w *Why
	switch {
	case !beats:
		w = a.say(CauseInDoubt, "perdure queues ls", "is in doubt: %s ran attempt %s%s and is silent, so nobody can say whether its effect happened; %s", worker, a.attempt(c.Attempt), long, a.afterDoubt())
		if g, no, err := a.workers(c.Coord.Topic, c.Coord.Partition, ""); err == nil && no != nil && g.Members == 0 {
			command, _ := a.startWorkers()
			w.Why, w.Command = w.Why+"; no worker runs queue "+a.v.Queue+" now", command
		}
	case c.Cancel:
		w = a.say(CauseCancelling, get, "runs: on %s, attempt %s%s, and a cancel was asked for: the worker ends it unless it completes first", worker, a.attempt(c.Attempt), long)
	default:
		w = a.say(CauseRunning, get, "runs: on %s, attempt %s%s%s%s", worker, a.attempt(c.Attempt), long, a.heard(), a.ends())
	}
	if c.Crashes > 0 {
		w.Why += fmt.Sprintf("; %s went silent while they ran it before", plural(int64(c.Crashes), "worker", "workers"))
	}
	return w.since(from).found("worker", worker, "attempt", c.Attempt, "run", c.Run, "crashes", c.Crashes), nil
}

// runsSince bounds when the run began: nothing records it on the happy path.
func (a *asking) runsSince() (from time.Time) {
	for i := range a.v.Timeline {
		if h := &a.v.Timeline[i]; h.Epoch == a.v.Epoch && h.At.After(from) {
			from = h.At
			if h.Until != nil && h.What == "attempt" && h.Until.After(from) {
				from = *h.Until
			}
		}
	}
	return from
}

func (a *asking) attempt(n int) string {
	if a.kind == nil {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d of %d", n, a.kind.Retry.MaxAttempts)
}

func (a *asking) heard() string {
	if a.v.Progress == nil {
		return ""
	}
	return ", last heard of at " + a.at(a.v.Progress.At)
}

// ends says what ends an attempt that does not end by itself.
func (a *asking) ends() string {
	text := ""
	if a.kind != nil {
		text = "; an attempt is ended after " + a.kind.Timeout.String()
	}
	if a.v.Deadline != nil {
		text += "; its deadline is " + a.at(*a.v.Deadline)
	}
	return text
}

func (a *asking) afterDoubt() string {
	if a.kind != nil && a.kind.Effects == schemas.EffectsOnce {
		return "its effects are `once`, so the worker that gets its record asks the reconcile hook or makes it a dead letter"
	}
	return "the worker that gets its record runs it again with a higher fence"
}

// pastDue is how late a retry may be before that needs a cause.
const pastDue = 2 * time.Second

func (a *asking) retrying() (*Why, error) {
	c := a.t.claim
	next := a.v.Attempt
	last := a.lastFailure()
	why := ""
	if text := failure(last.class, last.message); text != "" {
		why = fmt.Sprintf(": attempt %s failed with %s", a.attempt(max(last.attempt, 1)), text)
		if !last.at.IsZero() {
			why = fmt.Sprintf(": attempt %s failed at %s with %s", a.attempt(max(last.attempt, 1)), a.at(last.at), text)
		}
	}
	number := "its next attempt"
	if next > 0 {
		number = "attempt " + a.attempt(next)
	}
	var due time.Time
	if a.v.Due != nil {
		due = *a.v.Due
	}
	finish := func(w *Why, err error) (*Why, error) {
		if err != nil || w == nil {
			return nil, err
		}
		if w.Since == nil || !last.at.IsZero() {
			w.since(last.at)
		}
		return w.until(due).found("attempt", next, "error_class", last.class), nil
	}
	if c.Report != nil {
		return finish(a.say(CauseRetry, "perdure tasks get "+output.Word(a.id), "waits: its work elsewhere was reported as failed, and a worker acts on that when its record comes back%s", why), nil)
	}
	if due.IsZero() || due.After(a.now.Add(-pastDue)) {
		when := ""
		if !due.IsZero() {
			when = " due at " + a.at(due)
		}
		return finish(a.say(CauseRetry, "perdure tasks get "+output.Word(a.id), "waits for %s%s%s", number, when, why), nil)
	}
	return finish(a.overdue(fmt.Sprintf("waits: %s was due at %s%s", number, a.at(due), why)))
}

// overdue says why something that was due did not go on.
func (a *asking) overdue(what string) (*Why, error) {
	c := a.t.claim
	if !c.AtRecord { // on a delay topic, or on its way back from one
		n, err := a.deps.Groups.Members(a.ctx, a.history.deps.Names.RetryGroup())
		if err != nil {
			return nil, &awayError{"Kafka", err}
		}
		if n == 0 {
			return a.say(CauseNoRelay, "perdure relay", "%s; no relay runs that moves retries back to their queue", what), nil
		}
	}
	topic, partition := c.Coord.Topic, c.Coord.Partition
	if topic == "" {
		topic = a.history.deps.Names.Tasks(a.v.Queue)
	}
	g, w, err := a.workers(topic, partition, what)
	if err != nil || w != nil && (g.Members == 0 || c.AtRecord) {
		return w, err
	}
	if w, err := a.earlierOfKey(topic); err != nil || w != nil {
		return w, err
	}
	if !c.AtRecord {
		return a.say(CauseBehind, "perdure queues ls", "%s; it is on its way back to queue %s, behind what waits there, and %s", what, a.v.Queue, plural(int64(g.Members), "worker runs it", "workers run it")), nil
	}
	return a.say(CauseNothing, "perdure queues ls", "%s; worker %s has its record, and nothing is known here that holds it%s", what, g.Holder, a.limits()), nil
}

// lastFailure is the last failed attempt: from the claim, else from the events.
func (a *asking) lastFailure() eventTrace {
	var attempts []struct {
		N          int       `json:"n"`
		End        time.Time `json:"end"`
		Worker     string    `json:"worker"`
		ErrorClass string    `json:"error_class"`
		Message    string    `json:"message"`
		Cut        int       `json:"cut"`
	}
	if json.Unmarshal(a.t.claim.History, &attempts) == nil {
		for i := len(attempts) - 1; i >= 0; i-- {
			if f := attempts[i]; f.Cut == 0 {
				return eventTrace{at: f.End, attempt: f.N, worker: f.Worker, class: f.ErrorClass, message: f.Message}
			}
		}
	}
	for i := len(a.t.events) - 1; i >= 0; i-- {
		if e := a.t.events[i]; e.kind == "failed" || e.kind == "in_doubt" || e.kind == "crashed" {
			return e
		}
	}
	return eventTrace{}
}

// waiting is for something that uses no attempt.
func (a *asking) waiting() (*Why, error) {
	last := eventTrace{}
	for i := len(a.t.events) - 1; i >= 0 && last.kind == ""; i-- {
		if a.t.events[i].kind == "waiting" {
			last = a.t.events[i]
		}
	}
	switch a.v.Waits {
	case schemas.WaitExternal:
		return a.external(last.at)
	case schemas.WaitUnknownKind:
		since := a.firstTour()
		missing, command := "", "perdure catalog explain "+output.Word(a.v.Kind)
		if a.kind == nil {
			missing, command = "; the dispatcher's catalog does not have it either", "perdure catalog explain"
		}
		return a.say(CauseUnknownKind, command,
			"waits: worker %s did not know its kind %s at %s, so it goes round until one does, and dies at %s%s", last.worker, a.v.Kind, a.at(since), a.at(since.Add(time.Hour)), missing).
			since(since).until(since.Add(time.Hour)).found("kind", a.v.Kind, "worker", last.worker), nil
	case schemas.WaitBreaker:
		if coord := a.t.claim.Coord; coord.Topic != "" {
			if _, w, err := a.workers(coord.Topic, coord.Partition, "waits for an open breaker"); err != nil || w != nil {
				return w, err
			}
		}
		return a.breaker(&last, "waits"), nil
	}
	return a.say(CauseNothing, "perdure tasks get "+output.Word(a.id), "waits for %s since %s", a.v.Waits, a.at(last.at)).since(last.at), nil
}

// firstTour is when the first worker of the tour met the task.
func (a *asking) firstTour() (at time.Time) {
	for i := len(a.t.events) - 1; i >= 0; i-- {
		e := &a.t.events[i]
		if e.kind != "waiting" || e.waits().Reason != schemas.WaitUnknownKind || e.epoch != a.v.Epoch {
			break
		}
		at = e.at
	}
	return at
}

func (a *asking) external(handed time.Time) (*Why, error) {
	c := a.t.claim
	heard, until := "nothing was heard of it yet", c.Due
	if p := a.v.Progress; p != nil {
		heard, until = "last heard of at "+a.at(p.At), p.At.Add(c.Elsewhere)
	}
	what := fmt.Sprintf("waits: its work goes on elsewhere, attempt %s", a.attempt(max(c.Attempt-1, 1)))
	if !handed.IsZero() {
		what += ", handed on at " + a.at(handed)
	}
	what += "; " + heard
	if until.IsZero() || until.After(a.now.Add(-pastDue)) {
		if !until.IsZero() {
			what += ", and it may be silent until " + a.at(until)
		}
		return a.say(CauseExternal, "perdure tasks get "+output.Word(a.id)+" --wait 30s", "%s; its outcome is awaited at POST /v1/tasks/%s/outcome", what, a.id).
			since(handed).until(until).found("run", c.Run, "silence_seconds", c.Elsewhere.Seconds()), nil
	}
	return a.overdue(what + ", and its silence has been too long since " + a.at(until))
}
