package client

// Every statement of the client, in one place. checked says that the payload was
// held against its schema, so that the relay need not do it.

const (
	sqlCatalogVersion = `select coalesce((select source from perdure.source), ''),
	concat_ws(' ', (select count(*) from perdure.kinds), (select max(applied_at) from perdure.kinds),
	               (select count(*) from perdure.queues), (select max(applied_at) from perdure.queues))`
	sqlCatalogQueues = `select queue from perdure.queues`
	sqlCatalogKinds  = `select kind, queue, ordered, max_payload, expires_after, unique_for, unique_until_completed, settings from perdure.kinds`

	// One task without a key.
	sqlInsert = `insert into perdure.outbox (run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, true) returning id, generation`

	// One task with an idempotency key; no row comes back where the key is held.
	sqlInsertKeyed = `with held as (
  insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
  select concat_ws(E'\x1f', coalesce($9::text, session_user::text), $3::text, $4::text), $10::text, nextval('perdure.outbox_id_seq'),
         s.generation, sha256($8::bytea), clock_timestamp() + interval '168 hours', $11::bool
    from perdure.source s
  on conflict (scope, key) do update
    set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
    where u.expires < clock_timestamp()
  returning u.seq, u.generation),
row as (
  insert into perdure.outbox (id, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
  select seq, generation, $1::timestamptz, $2::timestamptz, $3::text, $4::text, $5::text, $6::text, $7::text::jsonb, $8::bytea, true from held)
select seq, generation from held`

	// One task with a unique key, and perhaps an idempotency key too.
	sqlInsertUnique = `select seq, generation, scheduled, outcome
  from perdure.insert_unique(null, coalesce($9::text, session_user::text), $12::interval, $3, $4, $5, $10, $13, $6, $7::text::jsonb, $8, $1, $2, $11, true)`

	// Many of them with reserved ids, one after the other, sorted by the unique
	// key: two batches can never deadlock. A subquery with an order is not folded
	// into the outer one, so it is the order of the calls.
	sqlInsertManyUnique = `select t.n, r.seq, r.generation, r.scheduled, r.outcome from (
  select t.*, coalesce(producer, session_user::text) as who
    from unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[],
                $10::text[], $11::text[], $12::bool[], $13::text[], $14::interval[]) with ordinality
      as t (id, run_at, deadline, kind, queue, key, content_type, headers, payload, producer, idempotency_key, scheduled, unique_key, unique_for, n)
   order by who, kind, queue, unique_key, n) t,
  lateral perdure.insert_unique(t.id, t.who, t.unique_for, t.kind, t.queue, t.key, nullif(t.idempotency_key, ''), t.unique_key,
    t.content_type, t.headers::jsonb, t.payload, t.run_at, t.deadline, t.scheduled, true) r`

	// Who holds the key. A new statement: the one before cannot see a holder
	// that committed while it waited.
	sqlHolder = `select seq, generation, scheduled, hash = sha256($5::bytea) from perdure.unique_keys
where scope = concat_ws(E'\x1f', coalesce($1::text, session_user::text), $2::text, $3::text) and key = $4::text`

	// Waits for another transaction's key at most so long, in this transaction only.
	sqlLockTimeout = `select set_config('lock_timeout', $1, true)`

	// Ids for many rows, in their order, taken in the transaction that writes them; and
	// whether the relay knows bundles. The sub-select keeps the number from the planner,
	// which would make a plan for each.
	sqlReserve = `select s.generation, s.bundles, array(select nextval('perdure.outbox_id_seq') from generate_series(1, (select $1::int)))
from perdure.source s`

	// Many rows with reserved ids.
	sqlInsertMany = `insert into perdure.outbox (id, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
select id, $2, run_at, deadline, kind, queue, key, content_type, headers::jsonb, payload, true
  from unnest($1::bigint[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[])
    as t (id, run_at, deadline, kind, queue, key, content_type, headers, payload)`

	// The same without ids of theirs: they are taken in the rows' order.
	sqlInsertFew = `insert into perdure.outbox (generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
select s.generation, t.run_at, t.deadline, t.kind, t.queue, t.key, t.content_type, t.headers::jsonb, t.payload, true
  from perdure.source s, unnest($1::timestamptz[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[])
    with ordinality as t (run_at, deadline, kind, queue, key, content_type, headers, payload, n)
 order by t.n returning id, generation`

	// Many keyed rows with reserved ids. The keys are sorted before they are
	// written, whatever order the ids have: two batches can never deadlock.
	sqlInsertManyKeyed = `with t as materialized (
  select concat_ws(E'\x1f', coalesce(producer, session_user::text), kind, queue) as scope, t.*
    from unnest($1::bigint[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[],
                $11::text[], $12::text[], $13::bool[])
      as t (id, run_at, deadline, kind, queue, key, content_type, headers, payload, producer, idempotency_key, scheduled)),
held as (
  insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
  select scope, idempotency_key, id, $2, sha256(payload), clock_timestamp() + interval '168 hours', scheduled from t order by scope, idempotency_key
  on conflict (scope, key) do update
    set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
    where u.expires < clock_timestamp()
  returning u.seq),
row as (
  insert into perdure.outbox (id, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
  select t.id, $2, t.run_at, t.deadline, t.kind, t.queue, t.key, t.content_type, t.headers::jsonb, t.payload, true
    from t join held on held.seq = t.id order by t.id)
select seq from held`

	sqlHolders = `select t.n, u.seq, u.generation, u.scheduled, u.hash = sha256(t.payload)
  from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[]) as t (n, producer, kind, queue, idempotency_key, payload)
  join perdure.unique_keys u on u.scope = concat_ws(E'\x1f', coalesce(t.producer, session_user::text), t.kind, t.queue) and u.key = t.idempotency_key`
)
