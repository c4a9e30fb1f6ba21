-- A record whose content type begins with application/cloudevents is one of the
-- Kafka binding's structured mode, in which nobody finds the task's attributes: such
-- a task could only become an undecodable dead letter. perdure.enqueue_bytes as
-- before, but that it refuses it (PD400).

-- +goose Up
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

-- +goose Down
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
