package dispatcher

// In Kafka, and not started.

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/schemas"
)

func (a *asking) queued(hop relaylog.Hop) (*Why, error) {
	where := fmt.Sprintf("%s, partition %d, offset %d", hop.Topic, hop.Partition, hop.Offset)
	g, w, err := a.workers(hop.Topic, hop.Partition, "is queued on "+where)
	if err != nil || w != nil {
		return w, err
	}
	relayed := a.lastAt("relayed")
	ahead := max(hop.Offset-max(g.Committed, 0), 0)
	if d := a.v.Deadline; d != nil && !d.After(a.now) {
		w := a.say(CauseBehind, "perdure queues ls", "is queued on %s and will not run any more: its deadline passed at %s, and the worker that comes to it makes it a dead letter", where, a.at(*d))
		return a.inKafka(w, hop, g).since(relayed), nil
	}
	if w, err := a.earlierOfKey(where); err != nil || w != nil {
		return a.inKafka(w, hop, g), err
	}
	if w, err := a.kindsBreaker(where); err != nil || w != nil {
		return a.inKafka(w, hop, g), err
	}
	holder := plural(int64(g.Members), "worker shares", "workers share") + " the queue"
	if !g.Shared {
		holder = "worker " + g.Holder + " has the partition"
	}
	if ahead > 0 {
		w = a.say(CauseBehind, "perdure queues ls", "is queued on %s since %s: %s, and at most %s before it unfinished",
			where, a.at(relayed), holder, plural(ahead, "record is", "records are"))
	} else {
		w = a.say(CauseNothing, "perdure queues ls", "is the next on %s since %s: %s, and nothing is known here that holds it%s", where, a.at(relayed), holder, a.limits())
	}
	return a.inKafka(w, hop, g).since(relayed), nil
}

// inKafka adds what Kafka said.
func (a *asking) inKafka(w *Why, hop relaylog.Hop, g GroupFacts) *Why {
	if w == nil {
		return nil
	}
	return w.found("topic", hop.Topic, "partition", hop.Partition, "offset", hop.Offset, "committed", g.Committed, "end", g.End, "members", g.Members, "holder", g.Holder)
}

// workers answers where a record of the task's queue has nobody to run it; else
// w is nil. what is how the task is, for the sentence.
func (a *asking) workers(topic string, partition int32, what string) (g GroupFacts, w *Why, err error) {
	names := a.history.deps.Names
	g, err = a.deps.Groups.Group(a.ctx, names.WorkerGroup(a.v.Queue), topic, partition)
	if err != nil {
		return g, nil, &awayError{"Kafka", err}
	}
	switch {
	case g.Members == 0:
		command, hint := a.startWorkers()
		w = a.say(CauseNoWorker, command, "%s: no worker runs queue %s (its group has no member)%s", what, a.v.Queue, hint)
	case !g.Shared && g.Holder == "":
		w = a.say(CauseUnassigned, "perdure queues ls", "%s: none of the %s of queue %s has that partition now, their group is %s", what, plural(int64(g.Members), "worker", "workers"), a.v.Queue, g.State)
	default:
		return g, nil, nil
	}
	return g, w.since(a.lastAt("relayed")).found("topic", topic, "partition", partition, "committed", g.Committed, "end", g.End, "members", g.Members, "queue", a.v.Queue), nil
}

// lastAt is when something of the timeline happened last; zero = not known.
func (a *asking) lastAt(what string) time.Time {
	for i := len(a.v.Timeline) - 1; i >= 0; i-- {
		if h := &a.v.Timeline[i]; h.What == what {
			return h.At
		}
	}
	return time.Time{}
}

// limits names what only the workers themselves see.
func (a *asking) limits() string {
	switch k := a.kind; {
	case k == nil:
		return "; its kind is not in the dispatcher's catalog"
	case k.Concurrency > 0:
		return fmt.Sprintf("; how many of the %d that its kind may run at once on a worker are running is the worker's own", k.Concurrency)
	case k.Dependency != "" && a.deps.Catalog.Dependencies[k.Dependency] != nil && a.deps.Catalog.Dependencies[k.Dependency].Concurrency > 0:
		return fmt.Sprintf("; how many of the %d that may call %s at once from a worker do so is the worker's own", a.deps.Catalog.Dependencies[k.Dependency].Concurrency, k.Dependency)
	}
	return ""
}

const (
	// keyLook is how many ids below are searched for the same key: the outbox has
	// no index of keys.
	keyLook = 5000
	// The task's own row gives its key; a replayed one is not looked up.
	sameKey = `
select generation, id from perdure.outbox_tasks
where id < $1 and id >= $1 - $4::bigint and row_id < $1 and row_id > $1 - $4::bigint - 64 and queue = $2 and key = $3 and task_id is null order by id limit 400`
)

// earlierOfKey finds the first unfinished task of the same key before this one.
func (a *asking) earlierOfKey(where string) (*Why, error) {
	if !a.ordered() {
		return nil, nil
	}
	rows, err := a.history.deps.DB.Query(a.ctx, sameKey, a.t.id.Seq, a.v.Queue, a.v.Key, keyLook)
	if err != nil {
		return nil, fmt.Errorf("find tasks of its key: %w", err)
	}
	ids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		id := schemas.ID{Source: a.history.deps.Source}
		err := row.Scan(&id.Generation, &id.Seq)
		return id.String(), err
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	known, err := a.history.deps.Claims.Get(a.ctx, ids...)
	if err != nil {
		return nil, &awayError{"Redis", err}
	}
	for i, c := range known {
		how, state := "", schemas.StateRunning
		switch c.State {
		case claims.Running:
			how = "runs on " + processOf(c.Owner)
		case claims.Waiting:
			how, state = "waits", schemas.StateRetrying
			if !c.Due.IsZero() {
				how += ", not before " + a.at(c.Due)
			}
		default:
			continue
		}
		return a.say(CauseEarlier, "perdure why "+output.Word(ids[i]), "is queued on %s: its kind runs the tasks of a key in order, and %s of the same key %s", where, ids[i], how).
			found("earlier", ids[i], "earlier_state", state), nil
	}
	return nil, nil
}

const (
	// breakerFresh: an open breaker's probes are at most a minute apart, and each
	// that fails is told.
	breakerFresh = 2 * time.Minute
	findBreakers = `
select task_id, at, error_class, message, data from perdure.events
where topic = $1 and type = 'waiting' and data->>'reason' = 'breaker' and at > clock_timestamp() - $2::interval order by at desc limit 50`
	kindsOf = `select o.id, o.kind from unnest($1::bigint[]) x, perdure.outbox_task(x) o where o.generation = $2`
)

// kindsBreaker finds that the kind's breaker was open a moment ago: by what other
// tasks of the kind, which met it, told.
func (a *asking) kindsBreaker(where string) (*Why, error) {
	rows, err := a.history.deps.DB.Query(a.ctx, findBreakers, a.history.deps.Names.Events(a.v.Queue), breakerFresh.String())
	if err != nil {
		return nil, fmt.Errorf("find open breakers: %w", err)
	}
	type told struct {
		eventTrace
		seq int64
	}
	var list []told
	var task string
	var e told
	var data json.RawMessage
	_, err = pgx.ForEachRow(rows, []any{&task, &e.at, &e.class, &e.message, &data}, func() error {
		if id, err := schemas.ParseID(task); err == nil && id.Generation == a.t.id.Generation {
			e.seq, e.data = id.Seq, append(json.RawMessage(nil), data...)
			list = append(list, e)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	seqs := make([]int64, len(list))
	for i := range list {
		seqs[i] = list[i].seq
	}
	if rows, err = a.history.deps.DB.Query(a.ctx, kindsOf, seqs, a.t.id.Generation); err != nil {
		return nil, fmt.Errorf("find open breakers: %w", err)
	}
	kinds, seq, kind := map[int64]string{}, int64(0), ""
	if _, err = pgx.ForEachRow(rows, []any{&seq, &kind}, func() error { kinds[seq] = kind; return nil }); err != nil {
		return nil, fmt.Errorf("find open breakers: %w", err)
	}
	for i := range list {
		if l := &list[i]; kinds[l.seq] == a.v.Kind {
			return a.breaker(&l.eventTrace, "is queued on "+where), nil
		}
	}
	return nil, nil
}

// breaker tells of an open one by the last event about it. what is how the task is.
func (a *asking) breaker(e *eventTrace, what string) *Why {
	next := e.waits().NextAt
	probe := "probes follow at most a minute apart"
	switch {
	case next.After(a.now):
		probe = "next probe " + a.at(next)
	case !next.IsZero():
		probe = "a probe was due at " + a.at(next) + ", and no failure of it is told yet"
	}
	w := a.say(CauseBreaker, "perdure doctor", "%s: %s's breaker is open, a call failed at %s with %s; %s", what, breakerName(a.kind), a.at(e.at), failure(e.class, e.message), probe)
	if a.kind != nil && a.kind.HTTP != nil {
		w.Command = "perdure catalog explain " + output.Word(a.kind.Name)
	}
	return w.since(e.at).until(next).found("endpoint", breakerName(a.kind), "error_class", e.class)
}
