-- What most calls ask for in one statement: the kind is looked up, everything is
-- checked, and the row is written, or else no row comes back. Then
-- perdure.enqueue_by_steps finds out what is wrong, or does what is rarer: keys,
-- times, headers, other content types. It is perdure.enqueue_bytes as it was, and
-- knows keys that are held until completed.
--
-- perdure.enqueue and perdure.enqueue_bytes run as their owner without a
-- search_path of their own, because setting one is a tenth of what a call costs.
-- So each name in them says its schema: functions, operators and types, also the
-- operators that BETWEEN and CASE x WHEN would look up. Types that are words of
-- the grammar (bigint, timestamp with time zone) are always pg_catalog's.

-- +goose Up
-- +goose StatementBegin
create function perdure.enqueue_by_steps(
  kind text, payload bytea, content_type text,
  queue text, key text, idempotency_key text, unique_key text,
  run_at timestamptz, deadline timestamptz,
  headers jsonb, options jsonb
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
  select d.queue, d.max_payload, d.expires_after, d.unique_for, d.unique_until_completed into k from perdure.kinds d where d.kind = enqueue_by_steps.kind;
  if not found then
    perform perdure.refuse(case when kind is null then 'PD400' else 'PD404' end,
      case when kind is null then 'perdure.enqueue: kind must be given' else format('perdure.enqueue: kind %s is not in the catalog', to_jsonb(left(kind, 128))) end,
      'declare it in catalog.yaml, then run `perdure catalog apply`');
  end if;
  if queue is null then
    queue := k.queue;
  elsif not exists (select from perdure.queues q where q.queue = enqueue_by_steps.queue) then
    perform perdure.refuse('PD404', format('perdure.enqueue: queue %s is not in the catalog', to_jsonb(left(queue, 64))),
      'declare it in catalog.yaml, then run `perdure catalog apply`; or leave queue out');
  elsif queue <> k.queue then
    perform perdure.refuse('PD400', format('perdure.enqueue: queue %s is not where kind %s runs: that is %s', queue, kind, k.queue),
      format('name queue %s, or leave queue out', k.queue));
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
  elsif content_type <> 'application/json' and content_type ~* '^application/cloudevents' then
    perform perdure.refuse('PD400', 'perdure.enqueue: content_type says that the payload is itself a CloudEvent, which on a record means another mode',
      'send the event''s data with its own content type');
  end if;
  if octet_length(key) not between 1 and 512 or octet_length(idempotency_key) not between 1 and 512 or octet_length(unique_key) not between 1 and 512 then
    perform perdure.refuse('PD400', 'perdure.enqueue: key, idempotency_key and unique_key must have 1 to 512 bytes', 'leave it null for none');
  end if;
  if unique_key is not null and k.unique_for is null and not k.unique_until_completed then
    perform perdure.refuse('PD400', format('perdure.enqueue: unique_key: kind %s declares no unique', kind),
      'give the kind `unique: {until: completed}`, or a period, in catalog.yaml and run `perdure catalog apply`; for "the same request twice is one task" use idempotency_key');
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
  if headers is not null or options <> '{}' then
    perform perdure.check_extras(coalesce(headers, '{}'), options, null);
  end if;
  if k.expires_after is not null then
    deadline := least(deadline, greatest(now_is, run_at) + k.expires_after);
  end if;

  if unique_key is not null then
    select * into held from perdure.insert_unique(null, session_user, k.unique_for, kind, queue, key, idempotency_key, unique_key,
      content_type, headers, payload, run_at, deadline, coalesce(run_at > now_is, false), false);
    if held.outcome = 'reuse' then
      perform perdure.refuse('PD422', format('perdure.enqueue: idempotency_key was used by task seq %s with another payload', held.seq),
        'one key is one request: use a new key for another payload');
    end if;
    return held.seq;
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
revoke execute on function perdure.enqueue_by_steps from public;

-- +goose StatementBegin
create or replace function perdure.enqueue_bytes(
  kind text, payload bytea, content_type text,
  queue text default null, key text default null, idempotency_key text default null, unique_key text default null,
  run_at timestamptz default null, deadline timestamptz default null,
  headers jsonb default '{}', options jsonb default '{}'
) returns bigint
language plpgsql volatile security definer as $$
#variable_conflict use_variable
declare
  now_is timestamp with time zone := pg_catalog.clock_timestamp();
  seq bigint;
begin
  insert into perdure.outbox (created_at, deadline, kind, queue, key, payload)
    select now_is, now_is operator(pg_catalog.+) d.expires_after, d.kind, d.queue, key, payload
      from perdure.kinds d
     where d.kind operator(pg_catalog.=) enqueue_bytes.kind and (queue is null or queue operator(pg_catalog.=) d.queue)
       and pg_catalog.octet_length(payload) operator(pg_catalog.>) 0 and pg_catalog.octet_length(payload) operator(pg_catalog.<=) d.max_payload
       and content_type operator(pg_catalog.=) 'application/json'
       and (key is null or pg_catalog.octet_length(key) operator(pg_catalog.>) 0 and pg_catalog.octet_length(key) operator(pg_catalog.<=) 512)
       and idempotency_key is null and unique_key is null and run_at is null and deadline is null
       and (headers is null or headers operator(pg_catalog.=) '{}') and (options is null or options operator(pg_catalog.=) '{}')
    returning id into seq;
  if seq is not null then
    return seq;
  end if;
  return perdure.enqueue_by_steps(kind, payload, content_type, queue, key, idempotency_key, unique_key, run_at, deadline, headers, options);
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function perdure.enqueue(
  kind text, payload jsonb,
  queue text default null, key text default null, idempotency_key text default null, unique_key text default null,
  run_at timestamptz default null, deadline timestamptz default null,
  headers jsonb default '{}', options jsonb default '{}'
) returns bigint
language plpgsql volatile security definer as $$
#variable_conflict use_variable
declare
  body pg_catalog.bytea := pg_catalog.convert_to(payload::pg_catalog.text, 'UTF8');
  now_is timestamp with time zone := pg_catalog.clock_timestamp();
  seq bigint;
begin
  insert into perdure.outbox (created_at, deadline, kind, queue, key, payload)
    select now_is, now_is operator(pg_catalog.+) d.expires_after, d.kind, d.queue, key, body
      from perdure.kinds d
     where d.kind operator(pg_catalog.=) enqueue.kind and (queue is null or queue operator(pg_catalog.=) d.queue)
       and pg_catalog.octet_length(body) operator(pg_catalog.<=) d.max_payload
       and (key is null or pg_catalog.octet_length(key) operator(pg_catalog.>) 0 and pg_catalog.octet_length(key) operator(pg_catalog.<=) 512)
       and idempotency_key is null and unique_key is null and run_at is null and deadline is null
       and (headers is null or headers operator(pg_catalog.=) '{}') and (options is null or options operator(pg_catalog.=) '{}')
    returning id into seq;
  if seq is not null then
    return seq;
  end if;
  return perdure.enqueue_by_steps(kind, body, 'application/json', queue, key, idempotency_key, unique_key, run_at, deadline, headers, options);
end $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
create or replace function perdure.enqueue(
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

-- +goose StatementBegin
create or replace function perdure.enqueue_bytes(
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
  select d.queue, d.max_payload, d.expires_after, d.unique_for into k from perdure.kinds d where d.kind = enqueue_bytes.kind;
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
  elsif queue <> k.queue then
    perform perdure.refuse('PD400', format('perdure.enqueue: queue %s is not where kind %s runs: that is %s', queue, kind, k.queue),
      format('name queue %s, or leave queue out', k.queue));
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
  elsif content_type <> 'application/json' and content_type ~* '^application/cloudevents' then
    perform perdure.refuse('PD400', 'perdure.enqueue: content_type says that the payload is itself a CloudEvent, which on a record means another mode',
      'send the event''s data with its own content type');
  end if;
  if octet_length(key) not between 1 and 512 or octet_length(idempotency_key) not between 1 and 512 or octet_length(unique_key) not between 1 and 512 then
    perform perdure.refuse('PD400', 'perdure.enqueue: key, idempotency_key and unique_key must have 1 to 512 bytes', 'leave it null for none');
  end if;
  if unique_key is not null and k.unique_for is null then
    perform perdure.refuse('PD400', format('perdure.enqueue: unique_key: kind %s declares no unique', kind),
      'give the kind `unique: {until: 10m}` in catalog.yaml and run `perdure catalog apply`; for "the same request twice is one task" use idempotency_key');
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
  if headers is not null or options <> '{}' then
    perform perdure.check_extras(coalesce(headers, '{}'), options, null);
  end if;
  if k.expires_after is not null then
    deadline := least(deadline, greatest(now_is, run_at) + k.expires_after);
  end if;

  if unique_key is not null then
    select * into held from perdure.insert_unique(null, session_user, k.unique_for, kind, queue, key, idempotency_key, unique_key,
      content_type, headers, payload, run_at, deadline, coalesce(run_at > now_is, false), false);
    if held.outcome = 'reuse' then
      perform perdure.refuse('PD422', format('perdure.enqueue: idempotency_key was used by task seq %s with another payload', held.seq),
        'one key is one request: use a new key for another payload');
    end if;
    return held.seq;
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

drop function perdure.enqueue_by_steps;
