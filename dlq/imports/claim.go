package imports

// What stands in Postgres: which letters are being sent, were sent, or may have been.

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// session is the one connection of a run. It holds the lock of the topic, and all
// claims are made on it: with the lock the run loses the means to go on.
type session struct{ c *pgx.Conn }

// A process whose machine vanished must not hold its lock for hours.
const lockTopic = `
select pg_try_advisory_lock(hashtextextended('perdure.import/' || $1 || '/' || $2, 0)),
  set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false)`

// lockWait is for a session whose process was killed, until its server notices.
const lockWait = 3 * time.Second

// lock lets one run at a time send the letters of a topic: they keep their order,
// and what another has under way is not taken for lost.
func (s session) lock(ctx context.Context, cluster, topic string, wait time.Duration) error {
	for began := time.Now(); ; {
		var got bool
		var set [3]string
		if err := s.c.QueryRow(ctx, lockTopic, cluster, topic).Scan(&got, &set[0], &set[1], &set[2]); err != nil {
			return fmt.Errorf("postgres: lock the topic: %w", err)
		}
		if got {
			return nil
		}
		if time.Since(began) > wait {
			return ErrBusy
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

const lettersHere = `cluster = $1 and topic = $2 and topic_id = $3`

func (r *run) here() []any { return []any{r.deps.ID, r.o.Topic, r.topicID} }

// id is the key of a letter's row: one column, so that Postgres finds some hundreds
// by it in a table of which it has no figures yet.
func (r *run) id(p place) string {
	return r.deps.ID + "/" + r.o.Topic + "/" + r.topicID + "/" + strconv.Itoa(int(p.partition)) + "/" + strconv.FormatInt(p.offset, 10)
}

func (r *run) ids(list []*letter) []string {
	ids := make([]string, len(list)) // never null
	for i, l := range list {
		ids[i] = r.id(l.place)
	}
	return ids
}

// states are those of the letters that an import had.
func (s session) states(ctx context.Context, r *run, list []*letter) (map[place]string, error) {
	rows, err := s.c.Query(ctx, `select partition, "offset", state from perdure.imported where letter = any($1)`, r.ids(list))
	known := map[place]string{}
	var p place
	var state string
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&p.partition, &p.offset, &state}, func() error { known[p] = state; return nil })
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: look for letters that were imported: %w", err)
	}
	return known, nil
}

// A letter that is claimed, sent or in doubt already is not claimed, whoever else
// comes at the same moment: its row is there.
const claimLetters = `
with i as (
  insert into perdure.imported as x (cluster, topic, topic_id, import, state, letter, partition, "offset", fingerprint, to_topic, to_partition, to_after, to_topic_id)
  select $1, $2, $3, $4, 'sending', u.*
  from unnest($5::text[], $6::int[], $7::bigint[], $8::text[], $9::text[], $10::int[], $11::bigint[], $15::text[]) u(letter, p, o, f, t, tp, ta, ti) order by letter
  on conflict (letter) do update
    set state = 'sending', import = $4, to_topic = excluded.to_topic, to_partition = excluded.to_partition, to_after = excluded.to_after, to_topic_id = excluded.to_topic_id,
      to_offset = null, at = clock_timestamp()
    where $12 and x.state = 'unknown'
  returning partition, "offset", to_topic),
a as (
  insert into perdure.audit (who, what, replay, why, details)
  select $13, 'import.send', $4, $14, jsonb_build_object('cluster', $1::text, 'topic', $2::text,
    'letters', (select jsonb_object_agg(partition, o) from (select partition, jsonb_agg("offset" order by "offset") as o from i group by 1) p),
    'to', (select jsonb_object_agg(to_topic, n) from (select to_topic, count(*) as n from i group by 1) t))
  where exists (select from i))
select partition, "offset" from i`

// claim makes letters this run's to send, and returns those that are.
func (s session) claim(ctx context.Context, r *run, list []*letter) (mine []*letter, err error) {
	n := len(list)
	partitions, offsets := make([]int32, n), make([]int64, n)
	groups, topics, topicIDs, to, after := make([]string, n), make([]string, n), make([]string, n), make([]int32, n), make([]int64, n)
	for i, l := range list {
		partitions[i], offsets[i] = l.partition, l.offset
		groups[i], topics[i], topicIDs[i], to[i], after[i] = l.Fingerprint, l.dest.name, l.dest.id, l.rec.Partition, l.after
	}
	rows, err := s.c.Query(ctx, claimLetters, append(r.here(), r.report.Import, r.ids(list), partitions, offsets, groups, topics, to, after, r.o.Again, r.o.Who, r.o.Why, topicIDs)...)
	got := map[place]bool{}
	var p place
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&p.partition, &p.offset}, func() error { got[p] = true; return nil })
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: claim letters: %w", err)
	}
	for _, l := range list {
		if got[l.place] {
			mine = append(mine, l)
		}
	}
	return mine, nil
}

const (
	markSent = `update perdure.imported x set state = 'sent', to_offset = u.at, at = clock_timestamp()
from unnest($1::text[], $2::bigint[]) u(letter, at) where x.letter = u.letter and import = $3 and state = 'sending'`
	forget = `delete from perdure.imported where letter = any($1) and import = $2 and state = 'sending'`
)

// mark writes down which letters of this run Kafka has, and which it refused. What
// is neither stays claimed.
func (s session) mark(ctx context.Context, r *run, sent, not []*letter) error {
	at := make([]int64, len(sent))
	for i, l := range sent {
		at[i] = l.rec.Offset
	}
	b := &pgx.Batch{} // one transaction
	b.Queue(markSent, r.ids(sent), at, r.report.Import)
	b.Queue(forget, r.ids(not), r.report.Import)
	if err := s.c.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("postgres: mark letters as sent: %w", err)
	}
	return nil
}

// A topic that was made anew has another id; of the one before nothing is left. No
// id says nothing of another.
const pruneLetters = `
delete from perdure.imported x where cluster = $1 and topic = $2 and (topic_id <> $3 and topic_id <> '' and $3 <> ''
  or topic_id = $3 and exists (select from unnest($4::int[], $5::bigint[]) u(p, o) where x.partition = u.p and x."offset" < u.o))`

func (s session) prune(ctx context.Context, r *run, partitions []int32, starts []int64) error {
	if _, err := s.c.Exec(ctx, pruneLetters, append(r.here(), partitions, starts)...); err != nil {
		return fmt.Errorf("postgres: forget letters that are gone: %w", err)
	}
	return nil
}

// told is ErrTopicID if the topic's id is told now and was not when letters of it
// were sent, or the reverse: a broker was upgraded, or the topic made anew, and in
// the first case its letters would go again.
func (s session) told(ctx context.Context, r *run) error {
	var other bool
	err := s.c.QueryRow(ctx, `select exists (select from perdure.imported where cluster = $1 and topic = $2 and (topic_id = '') <> ($3 = ''))`, r.here()...).Scan(&other)
	switch {
	case err != nil:
		return fmt.Errorf("postgres: look for letters of another topic id: %w", err)
	case !other:
		return nil
	}
	return fmt.Errorf("%w: its id is %q now, and brokers told one then or now, not both times; only you know whether it was made anew: see docs/replaying.md", ErrTopicID, r.topicID)
}

// inDoubt is a letter that a run had claimed when it ended.
type inDoubt struct {
	place
	to target
	// where its destination ended before it was sent
	after int64
	// what is found out
	at    int64 // where it lies; -1 = it does not
	whole bool  // all that could hold it was read
}

// target is a partition that letters went to.
type target struct {
	topic, id string
	partition int32
}

// doubts are all letters that are in doubt, and how many seconds the youngest
// claim still has until it may be looked for.
func (s session) doubts(ctx context.Context, r *run) (list []*inDoubt, wait float64, err error) {
	rows, err := s.c.Query(ctx, `select partition, "offset", to_topic, to_topic_id, to_partition, to_after,
  extract(epoch from at + $4::interval - clock_timestamp())::float8 from perdure.imported where `+lettersHere+` and state = 'sending'`,
		append(r.here(), r.cfg.Settle)...)
	if err == nil {
		var x inDoubt
		var left float64
		_, err = pgx.ForEachRow(rows, []any{&x.partition, &x.offset, &x.to.topic, &x.to.id, &x.to.partition, &x.after, &left}, func() error {
			one := x
			one.at = -1
			list, wait = append(list, &one), max(wait, left)
			return nil
		})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("postgres: look for letters in doubt: %w", err)
	}
	return list, wait, nil
}

const settleLetters = `
with u as (select * from unnest($3::text[], $4::bigint[], $5::boolean[]) u(letter, at, whole)),
f as (update perdure.imported x set state = case when u.at >= 0 then 'sent' else 'unknown' end, to_offset = nullif(u.at, -1), at = clock_timestamp()
  from u where x.letter = u.letter and state = 'sending' and (u.at >= 0 or not u.whole) returning x.state),
d as (delete from perdure.imported x using u where x.letter = u.letter and state = 'sending' and u.at < 0 and u.whole returning 1),
n as (select (select count(*) from f where state = 'sent') as found, (select count(*) from d) as not_sent, (select count(*) from f where state = 'unknown') as unknown),
a as (insert into perdure.audit (who, what, replay, why, details)
  select $6, 'import.settle', $7, $8, jsonb_build_object('cluster', $1::text, 'topic', $2::text) || to_jsonb(n) from n)
select found, not_sent, unknown from n`

// settled writes down what was found out of letters in doubt.
func (s session) settled(ctx context.Context, r *run, list []*inDoubt) (n Settled, err error) {
	ids, at, whole := make([]string, len(list)), make([]int64, len(list)), make([]bool, len(list))
	for i, x := range list {
		ids[i], at[i], whole[i] = r.id(x.place), x.at, x.whole
	}
	if err = s.c.QueryRow(ctx, settleLetters, r.deps.ID, r.o.Topic, ids, at, whole, r.o.Who, r.report.Import, r.o.Why).Scan(&n.Found, &n.NotSent, &n.Unknown); err != nil {
		err = fmt.Errorf("postgres: settle letters in doubt: %w", err)
	}
	return n, err
}
