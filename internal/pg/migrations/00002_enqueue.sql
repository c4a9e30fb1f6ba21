-- What producers call: perdure.enqueue (jsonb) and perdure.enqueue_bytes. Always
-- with named arguments; changed only by drop and create in one migration, never
-- overloaded.
--
-- They run as their owner, so a producer's role needs only
--   grant usage on schema perdure to <role>;
-- and that survives a later migration that replaces them. The producer in the
-- scope of an idempotency key is session_user.
--
-- SQLSTATEs, each with a HINT that says what mends it:
--   PD400  an argument is wrong: null, empty, too long, past deadline, reserved
--          header, unknown option
--   PD404  the kind or the queue is not in the catalog
--   PD413  the payload is larger than the kind's limit
--   PD422  the idempotency key was used with another payload
-- and Postgres' own: 55P03 where the caller set lock_timeout and the key's first
-- use has not committed yet; 40001 where the caller's transaction is REPEATABLE
-- READ or stricter and lost the race for a key: run it again.

-- +goose Up

-- The schema is reachable by grant only, so PUBLIC may execute what is in it.
-- +goose StatementBegin
create function perdure.refuse(code text, message text, hint text) returns void
language plpgsql as $$
begin
  raise exception using errcode = code, message = message, hint = hint;
end $$;
-- +goose StatementEnd

-- Checks what most calls leave out. Never called on the common path.
-- +goose StatementBegin
create function perdure.check_extras(headers jsonb, options jsonb, unique_key text) returns void
language plpgsql stable as $$
declare
  name text;
  value jsonb;
  n int := 0;
  size int := 0;
begin
  if unique_key is not null then
    perform perdure.refuse('PD400', 'perdure.enqueue: unique_key: no kind of the catalog declares unique',
      'leave unique_key out; for "the same request twice is one task" use idempotency_key');
  end if;
  if jsonb_typeof(options) <> 'object' then
    perform perdure.refuse('PD400', 'perdure.enqueue: options must be a JSON object', 'leave options out');
  end if;
  for name in select jsonb_object_keys(options) loop
    perform perdure.refuse('PD400', format('perdure.enqueue: unknown option %s', to_jsonb(left(name, 64))),
      'this version of Perdure has no options: leave it out');
  end loop;
  if jsonb_typeof(headers) <> 'object' then
    perform perdure.refuse('PD400', 'perdure.enqueue: headers must be a JSON object of strings',
      'write headers => jsonb_build_object(''name'', ''value'')');
  end if;
  for name, value in select * from jsonb_each(headers) loop
    n := n + 1;
    size := size + octet_length(name) + octet_length(value #>> '{}');
    if jsonb_typeof(value) <> 'string' then
      perform perdure.refuse('PD400', format('perdure.enqueue: header %s must be a string', to_jsonb(left(name, 64))), 'cast its value to text');
    end if;
    if name = '' or octet_length(name) > 128 or name ~ '[\x01-\x1f\x7f]' then
      perform perdure.refuse('PD400', format('perdure.enqueue: header name %s is not usable', to_jsonb(left(name, 64))),
        'a name has 1 to 128 bytes and no control characters');
    end if;
    if lower(name) like any (array['ce\_%', 'perdure\_%', '\_\_%', 'content-type']) then
      perform perdure.refuse('PD400', format('perdure.enqueue: header %s is reserved', to_jsonb(left(name, 64))),
        'rename it: no ce_, perdure_, __ at the beginning; content-type is the argument content_type of enqueue_bytes');
    end if;
  end loop;
  if n > 32 or size > 16384 then
    perform perdure.refuse('PD400', 'perdure.enqueue: headers are more than 32 or larger than 16384 bytes together', 'put them into the payload');
  end if;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function perdure.enqueue_bytes(
  kind text, payload bytea, content_type text,
  queue text default null, key text default null, idempotency_key text default null, unique_key text default null,
  run_at timestamptz default null, deadline timestamptz default null,
  headers jsonb default '{}', options jsonb default '{}'
) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
  k record;
  now_is timestamptz := clock_timestamp();
  held record;
  the_scope text;
  seq bigint;
begin
  select d.queue, d.max_payload, d.expires_after into k from perdure.kinds d where d.kind = enqueue_bytes.kind;
  if not found then
    perform perdure.refuse(case when kind is null then 'PD400' else 'PD404' end,
      case when kind is null then 'perdure.enqueue: kind must be given' else format('perdure.enqueue: kind %s is not in the catalog', to_jsonb(left(kind, 128))) end,
      'declare it in catalog.yaml, then run `perdure catalog apply`');
  end if;
  if queue is null then
    queue := k.queue;
  elsif not exists (select from perdure.queues q where q.queue = enqueue_bytes.queue) then
    perform perdure.refuse('PD404', format('perdure.enqueue: queue %s is not in the catalog', to_jsonb(left(queue, 64))),
      'declare it in catalog.yaml, then run `perdure catalog apply`; or leave queue out');
  end if;
  if payload is null or octet_length(payload) = 0 then
    perform perdure.refuse('PD400', 'perdure.enqueue: payload must be given', 'for a task without data send {}');
  elsif octet_length(payload) > k.max_payload then
    perform perdure.refuse('PD413', format('perdure.enqueue: payload has %s bytes, the limit of kind %s is %s', octet_length(payload), kind, k.max_payload),
      'store the data elsewhere and send where it is');
  end if;
  if content_type is distinct from 'application/json'
     and (content_type is null or length(content_type) > 256
          or content_type !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?$') then
    perform perdure.refuse('PD400', 'perdure.enqueue: content_type is not a media type', 'write it as in application/json');
  end if;
  if octet_length(key) not between 1 and 512 or octet_length(idempotency_key) not between 1 and 512 then
    perform perdure.refuse('PD400', 'perdure.enqueue: key and idempotency_key must have 1 to 512 bytes', 'leave it null for none');
  end if;
  if not isfinite(run_at) or not isfinite(deadline) then
    perform perdure.refuse('PD400', 'perdure.enqueue: run_at and deadline must be finite', 'leave it null for none');
  end if;
  if deadline <= now_is or deadline <= run_at then
    perform perdure.refuse('PD400', case when deadline <= now_is then 'perdure.enqueue: deadline is in the past' else 'perdure.enqueue: deadline is not after run_at' end,
      'the task could never run: give a later deadline');
  end if;
  if headers = '{}' then
    headers := null;
  end if;
  if headers is not null or options <> '{}' or unique_key is not null then
    perform perdure.check_extras(coalesce(headers, '{}'), options, unique_key);
  end if;
  if k.expires_after is not null then
    deadline := least(deadline, greatest(now_is, run_at) + k.expires_after);
  end if;

  if idempotency_key is null then
    insert into perdure.outbox (created_at, run_at, deadline, kind, queue, key, content_type, headers, payload)
      values (now_is, run_at, deadline, kind, queue, key, content_type, headers, payload)
      returning id into seq;
    return seq;
  end if;

  the_scope := concat_ws(E'\x1f', session_user, kind, queue);
  insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
    select the_scope, idempotency_key, nextval('perdure.outbox_id_seq'), s.generation, sha256(payload),
           now_is + interval '168 hours', coalesce(run_at > now_is, false)
      from perdure.source s
    on conflict on constraint unique_keys_pkey do update
      set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
      where u.expires < clock_timestamp()
    returning u.seq, u.generation into held;
  if found then
    insert into perdure.outbox (id, generation, created_at, run_at, deadline, kind, queue, key, content_type, headers, payload)
      values (held.seq, held.generation, now_is, run_at, deadline, kind, queue, key, content_type, headers, payload);
    return held.seq;
  end if;
  -- A new statement: the one before cannot see a holder that committed while it ran.
  select u.seq, u.hash into held from perdure.unique_keys u where u.scope = the_scope and u.key = idempotency_key;
  if not found then
    raise exception using errcode = '40001', message = 'perdure.enqueue: the idempotency key''s holder went away', hint = 'run the transaction again';
  end if;
  if held.hash <> sha256(payload) then
    perform perdure.refuse('PD422', format('perdure.enqueue: idempotency_key was used by task seq %s with another payload', held.seq),
      'one key is one request: use a new key for another payload');
  end if;
  return held.seq;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function perdure.enqueue(
  kind text, payload jsonb,
  queue text default null, key text default null, idempotency_key text default null, unique_key text default null,
  run_at timestamptz default null, deadline timestamptz default null,
  headers jsonb default '{}', options jsonb default '{}'
) returns bigint
language plpgsql volatile as $$
begin
  return perdure.enqueue_bytes(kind, convert_to(payload::text, 'UTF8'), 'application/json', queue, key, idempotency_key, unique_key,
    run_at, deadline, headers, options);
end $$;
-- +goose StatementEnd

comment on function perdure.enqueue is 'Accepts a task in the caller''s transaction; returns its seq. Call it with named arguments.';
comment on function perdure.enqueue_bytes is 'perdure.enqueue for a payload that is not JSON, or whose exact bytes matter.';

-- +goose Down
drop function perdure.enqueue;
drop function perdure.enqueue_bytes;
drop function perdure.check_extras;
drop function perdure.refuse;
