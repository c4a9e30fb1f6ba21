package main

// A large index of dead letters, made in SQL: in the spread that an index has
// which nobody tidied for a week.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/schemas"
)

// The spread of a filled index.
const (
	letterQueues = 4
	letterKinds  = 20
	letterGroups = 2000
	letterKeys   = 200_000
	letterDays   = 7
)

// fillChunk is how many letters one statement makes.
const fillChunk = 50_000

// Where a header says the task's id or its key.
const (
	idMark  = "main-1-0"
	keyMark = "KEY"
)

var (
	errorClasses = []string{"HTTP 422", "HTTP 500", "HTTP 503", "net.OpError", "pgconn.PgError", "payments.Declined", "stripe.Error", "io.EOF"}
	letterReason = []schemas.Reason{schemas.ReasonPermanent, schemas.ReasonExhausted, schemas.ReasonExhausted, schemas.ReasonExpired, schemas.ReasonSchema}
	syllables    = []string{"bal", "cor", "den", "fir", "gam", "hol", "jin", "kel", "lum", "mor"}
)

// word is a word without digits, another for each number below 1,000.
func word(n int) string { return syllables[n/100%10] + syllables[n/10%10] + syllables[n%10] }

// cause is what the letters of one group have in common.
type cause struct {
	kind, queue, class, message string // NNN in the message: the letter's number
	reason                      schemas.Reason
	fingerprint, text           string
	headers                     string // of a task with idMark and keyMark; JSON
	attempts                    string
}

func kindName(n int) string { return fmt.Sprintf("kind-%02d", n) }

func causeOf(g int) (cause, error) {
	kind := g % letterKinds
	c := cause{kind: kindName(kind), queue: fmt.Sprintf("q%d", kind%letterQueues), class: errorClasses[g/letterKinds%len(errorClasses)], reason: letterReason[g%len(letterReason)]}
	c.message = fmt.Sprintf("charge NNN was refused by %s %s: try again after the account is settled", word(g%1000), word(g/2))
	c.fingerprint = dlq.Fingerprint(c.kind, c.class, strings.ReplaceAll(c.message, "NNN", "1234567"), "")
	c.text = dlq.Normalize(c.class) + ": " + dlq.Normalize(strings.ReplaceAll(c.message, "NNN", "1234567"))
	t := &schemas.Task{ID: idMark, Kind: c.kind, Key: keyMark, Time: time.Unix(1.7e9, 0), Headers: map[string]string{"x-tenant": "acme"}}
	hs := [][]any{}
	for _, h := range schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t) {
		hs = append(hs, []any{h.Key, h.Value})
	}
	b, err := json.Marshal(hs)
	if err != nil {
		return c, err
	}
	c.headers = string(b)
	c.attempts = string(dlq.EncodeAttempts([]dlq.Attempt{{N: 1, Run: 5, Start: t.Time, End: t.Time.Add(time.Second), Worker: "worker-a", ErrorClass: c.class, Message: c.message}}, 0))
	return c, nil
}

const fillGroups = `
create table bench_causes (g int primary key, kind text, queue text, class text, message text, reason text, fingerprint text, headers text, attempts text);
create function bench_h(i bigint, seed bigint) returns float8 language sql immutable parallel safe as
  $$select (hashint8extended(i, seed) & 2147483647) / 2147483648.0$$`

// Half the letters are of the hundredth part of the groups, and a quarter of the
// largest; a tenth has no key. The same letters each time, but for when they died.
const fillLetters = `
with f as materialized (
  select 'main-1-' || i || '@0' as letter, 'main-1-' || i as task_id, c.kind, c.queue, k.key, s.state,
    case s.state when 'resolved' then 'completed' when 'discarded' then 'discard' else '' end as resolved_by,
    c.reason, c.class, replace(c.message, 'NNN', i::text) as message, c.fingerprint, c.attempts::jsonb as attempts, 'v' || floor(i * 20 / $3)::int as release,
    replace(replace(c.headers, $4, encode(convert_to('main-1-' || i, 'UTF8'), 'base64')), $5, encode(convert_to(coalesce(k.key, '-'), 'UTF8'), 'base64'))::jsonb as headers,
    t.died, i
  from generate_series($1::bigint, $2::bigint) i
  join bench_causes c on c.g = floor(2000 * power(bench_h(i, 1), 6))::int
  cross join lateral (select case when bench_h(i, 2) >= 0.1 then 'customer-' || floor(200000 * power(bench_h(i, 3), 2))::int end as key) k
  cross join lateral (select case when bench_h(i, 4) < 0.70 then 'open' when bench_h(i, 4) < 0.73 then 'held' when bench_h(i, 4) < 0.75 then 'replaying'
    when bench_h(i, 4) < 0.95 then 'resolved' else 'discarded' end as state) s
  cross join lateral (select $6::timestamptz - interval '7 days' + i::float8 / $3 * interval '7 days' - bench_h(i, 5) * interval '10 minutes' as died) t),
l as (
  insert into perdure.letters (letter, task_id, kind, queue, key, reason, error_class, message, attempts, run, release, catalog,
    record_key, headers, payload, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, place)
  select letter, task_id, kind, queue, key, reason, class, message, attempts, 5, release, 'c0ffee', convert_to(coalesce(key, '-'), 'UTF8'), headers,
    convert_to('{"n":"' || lpad(i::text, 10, '0') || '","d":"' || repeat(md5(i::text), 7) || '"}', 'UTF8'),
    'tasks.' || queue, i % 8, i, 'dlq.' || queue, i % 8, i, died, i from f)
insert into perdure.letter_states (letter, state, resolved_by, fingerprint, died_at, kind, queue, reason, release, changed_at)
select letter, state, resolved_by, fingerprint, died, kind, queue, reason, release, died + interval '1 second' from f`

// countFilled is what the triggers would have done.
const countFilled = `
insert into perdure.group_counts
select fingerprint, state, coalesce(kind, ''), queue, reason, count(*), min(died_at), max(died_at) from perdure.letter_states group by 1, 2, 3, 4, 5;
insert into perdure.group_releases select fingerprint, release, count(*), min(died_at), max(died_at) from perdure.letter_states where release <> '' group by 1, 2;
alter table perdure.letter_states enable trigger user`

// fillIndex puts n letters into an empty index.
func fillIndex(ctx context.Context, pool *pgxpool.Pool, n int) (err error) {
	began := time.Now()
	if _, err := pool.Exec(ctx, fillGroups); err != nil {
		return err
	}
	if err := fillCauses(ctx, pool); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, `alter table perdure.letter_states disable trigger user`); err != nil {
		return err
	}
	restore, err := withoutIndexes(ctx, pool)
	if err != nil {
		return err
	}
	mark := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	var done atomic.Int64
	all, ctx2 := errgroup.WithContext(ctx)
	all.SetLimit(2)
	for from := 1; from <= n; from += fillChunk {
		all.Go(func() error {
			to := min(from+fillChunk-1, n)
			if _, err := pool.Exec(ctx2, fillLetters, from, to, n, mark(idMark), mark(keyMark), began); err != nil {
				return fmt.Errorf("fill letters %d to %d: %w", from, to, err)
			}
			fmt.Fprintf(os.Stderr, "filled %d of %d, %s\n", done.Add(int64(to-from+1)), n, time.Since(began).Round(time.Second))
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	if err := restore(); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, countFilled); err != nil {
		return fmt.Errorf("count what was filled: %w", err)
	}
	if _, err := pool.Exec(ctx, `vacuum (analyze) perdure.letters, perdure.letter_states, perdure.group_counts, perdure.group_releases`); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d letters filled and indexed in %s\n", n, time.Since(began).Round(time.Second))
	return nil
}

func fillCauses(ctx context.Context, pool *pgxpool.Pool) error {
	var causes, texts [][]any
	for g := range letterGroups {
		c, err := causeOf(g)
		if err != nil {
			return err
		}
		causes = append(causes, []any{g, c.kind, c.queue, c.class, c.message, string(c.reason), c.fingerprint, c.headers, c.attempts})
		texts = append(texts, []any{c.fingerprint, c.text})
	}
	if _, err := pool.CopyFrom(ctx, pgx.Identifier{"bench_causes"}, []string{"g", "kind", "queue", "class", "message", "reason", "fingerprint", "headers", "attempts"}, pgx.CopyFromRows(causes)); err != nil {
		return fmt.Errorf("fill causes: %w", err)
	}
	if _, err := pool.CopyFrom(ctx, pgx.Identifier{"perdure", "group_texts"}, []string{"fingerprint", "text"}, pgx.CopyFromRows(texts)); err != nil {
		return fmt.Errorf("fill causes: %w", err)
	}
	_, err := pool.Exec(ctx, `analyze bench_causes; analyze perdure.group_texts`)
	return err
}

// withoutIndexes drops the indexes of the letters, and returns what makes them again.
func withoutIndexes(ctx context.Context, pool *pgxpool.Pool) (restore func() error, err error) {
	rows, err := pool.Query(ctx, `
select i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), coalesce(c.conname, ''), coalesce(pg_get_constraintdef(c.oid), '')
from pg_index i left join pg_constraint c on c.conindid = i.indexrelid where i.indrelid in ('perdure.letters'::regclass, 'perdure.letter_states'::regclass)`)
	if err != nil {
		return nil, err
	}
	type index struct{ Table, Name, Def, Constraint, ConstraintDef string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		drop := `drop index ` + x.Name
		if x.Constraint != "" {
			drop = `alter table ` + x.Table + ` drop constraint ` + x.Constraint
		}
		if _, err := pool.Exec(ctx, drop); err != nil {
			return nil, fmt.Errorf("%s: %w", drop, err)
		}
	}
	return func() (err error) {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		if _, err := conn.Exec(ctx, `set maintenance_work_mem = '1GB'`); err != nil {
			return err
		}
		defer func() {
			_, reset := conn.Exec(ctx, `reset maintenance_work_mem`)
			err = errors.Join(err, reset)
		}()
		for _, x := range list {
			began, sql := time.Now(), x.Def
			if x.Constraint != "" {
				sql = `alter table ` + x.Table + ` add constraint ` + x.Constraint + ` ` + x.ConstraintDef
			}
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
			fmt.Fprintf(os.Stderr, "index %s, %s\n", x.Name, time.Since(began).Round(time.Second))
		}
		return nil
	}, nil
}
