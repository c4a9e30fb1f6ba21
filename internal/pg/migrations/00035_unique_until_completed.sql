-- unique: {until: completed}: a unique key that is held until its task is completed,
-- cancelled or discarded, for as long as that takes. Such a key has no end of its
-- own: expires is infinity, and perdure.release_unique gives it back.

-- +goose Up
alter table perdure.kinds add column unique_until_completed boolean not null default false; -- unique_for is null then

-- By its holder; only keys without an end are in it.
create index unique_keys_held on perdure.unique_keys (seq) where expires = 'infinity';

-- Gives back the unique keys of tasks that have ended, and says how many. The only
-- place where that is done: from the index, the replayer and the dispatcher, with
-- what they know of the task's end, and by a person who knows it. What is compared
-- is the holder, so that a task that ended can never free a later task's key,
-- however late or often it is said. Keys held for a period are not touched, nor
-- those of another source. Keys are locked in one order.
-- +goose StatementBegin
create function perdure.release_unique(task_ids text[]) returns bigint
language sql volatile as $$
with ended as materialized (
  select distinct p[2]::int as generation, p[3]::bigint as seq
    from unnest(task_ids) id, perdure.source s, regexp_match(id, '^(.+)-([0-9]{1,9})-([0-9]{1,18})$') p
   where p[1] = s.source),
held as materialized (
  select u.scope, u.key, u.seq, u.generation from perdure.unique_keys u join ended e on e.seq = u.seq and e.generation = u.generation
   where u.expires = 'infinity' order by u.seq for update of u),
gone as (
  delete from perdure.unique_keys u using held h
   where u.scope = h.scope and u.key = h.key and u.seq = h.seq and u.generation = h.generation and u.expires = 'infinity'
  returning 1)
select count(*) from gone
$$;
-- +goose StatementEnd

-- As before, but for unique_for: null is until completed; and it locks no key that
-- another task holds.
-- +goose StatementBegin
create or replace function perdure.insert_unique(
  id bigint, producer text, unique_for interval, kind text, queue text, key text, idempotency_key text, unique_key text,
  content_type text, headers jsonb, payload bytea, run_at timestamptz, deadline timestamptz, is_scheduled boolean, is_checked boolean,
  out seq bigint, out generation int, out scheduled boolean, out outcome text
) language plpgsql volatile as $$
#variable_conflict use_variable
declare
  idempotent_scope text := concat_ws(E'\x1f', producer, kind, queue);
  -- A fourth part: the two sorts of keys never meet.
  unique_scope text := concat_ws(E'\x1f', producer, kind, queue, 'unique');
  until timestamptz := coalesce(clock_timestamp() + unique_for, 'infinity');
  held record;
begin
  seq := coalesce(id, nextval('perdure.outbox_id_seq'));
  select s.generation into strict generation from perdure.source s;
  scheduled := is_scheduled;
  if idempotency_key is not null then
    insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
      values (idempotent_scope, idempotency_key, seq, generation, sha256(payload), clock_timestamp() + interval '168 hours', scheduled)
      on conflict on constraint unique_keys_pkey do update
        set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
        where u.expires < clock_timestamp();
    if not found then
      select u.seq, u.generation, u.scheduled, u.hash = sha256(payload) as same into held
        from perdure.unique_keys u where u.scope = idempotent_scope and u.key = idempotency_key;
      if not found then
        raise exception using errcode = '40001', message = 'perdure.enqueue: the idempotency key''s holder went away', hint = 'run the transaction again';
      end if;
      seq := held.seq; generation := held.generation; scheduled := held.scheduled;
      outcome := case when held.same then 'replayed' else 'reuse' end;
      return;
    end if;
  end if;

  -- Three ways for a key: it is taken, or held, or its period is over. None of them
  -- locks a key that another task holds: it is given back while the transactions of
  -- those who were told so are still open. Around again where it was given back in
  -- between.
  for tries in 1..20 loop
    insert into perdure.unique_keys (scope, key, seq, generation, hash, expires, scheduled)
      values (unique_scope, unique_key, seq, generation, sha256(payload), until, scheduled)
      on conflict on constraint unique_keys_pkey do nothing;
    if found then
      outcome := 'new';
      exit;
    end if;
    select u.seq, u.generation, u.scheduled into held from perdure.unique_keys u
      where u.scope = unique_scope and u.key = unique_key and u.expires >= clock_timestamp();
    if found then
      outcome := 'duplicate';
      exit;
    end if;
    update perdure.unique_keys u
      set seq = insert_unique.seq, generation = insert_unique.generation, hash = sha256(payload), expires = until, scheduled = insert_unique.scheduled
      where u.scope = unique_scope and u.key = unique_key and u.expires < clock_timestamp();
    if found then
      outcome := 'new';
      exit;
    end if;
  end loop;
  if outcome is null then
    raise exception using errcode = '40001', message = 'perdure.enqueue: the unique key''s holder went away', hint = 'run the transaction again';
  end if;
  if outcome = 'duplicate' then
    seq := held.seq; generation := held.generation; scheduled := held.scheduled;
    if idempotency_key is not null then
      update perdure.unique_keys u set seq = held.seq, generation = held.generation, scheduled = held.scheduled
        where u.scope = idempotent_scope and u.key = idempotency_key;
    end if;
    return;
  end if;
  if unique_for is null then
    -- Among the user's own, where no user can write it: so it goes with the row
    -- wherever that is filed, and costs tasks without it nothing.
    headers := coalesce(headers, '{}') || '{"perdure_unique": "completed"}';
  end if;
  insert into perdure.outbox (id, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
    values (seq, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, is_checked);
end $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
create or replace function perdure.insert_unique(
  id bigint, producer text, unique_for interval, kind text, queue text, key text, idempotency_key text, unique_key text,
  content_type text, headers jsonb, payload bytea, run_at timestamptz, deadline timestamptz, is_scheduled boolean, is_checked boolean,
  out seq bigint, out generation int, out scheduled boolean, out outcome text
) language plpgsql volatile as $$
#variable_conflict use_variable
declare
  idempotent_scope text := concat_ws(E'\x1f', producer, kind, queue);
  -- A fourth part: the two sorts of keys never meet.
  unique_scope text := concat_ws(E'\x1f', producer, kind, queue, 'unique');
  held record;
begin
  seq := coalesce(id, nextval('perdure.outbox_id_seq'));
  select s.generation into strict generation from perdure.source s;
  scheduled := is_scheduled;
  if idempotency_key is not null then
    insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
      values (idempotent_scope, idempotency_key, seq, generation, sha256(payload), clock_timestamp() + interval '168 hours', scheduled)
      on conflict on constraint unique_keys_pkey do update
        set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
        where u.expires < clock_timestamp();
    if not found then
      select u.seq, u.generation, u.scheduled, u.hash = sha256(payload) as same into held
        from perdure.unique_keys u where u.scope = idempotent_scope and u.key = idempotency_key;
      if not found then
        raise exception using errcode = '40001', message = 'perdure.enqueue: the idempotency key''s holder went away', hint = 'run the transaction again';
      end if;
      seq := held.seq; generation := held.generation; scheduled := held.scheduled;
      outcome := case when held.same then 'replayed' else 'reuse' end;
      return;
    end if;
  end if;

  insert into perdure.unique_keys as u (scope, key, seq, generation, hash, expires, scheduled)
    values (unique_scope, unique_key, seq, generation, sha256(payload), clock_timestamp() + unique_for, scheduled)
    on conflict on constraint unique_keys_pkey do update
      set seq = excluded.seq, generation = excluded.generation, hash = excluded.hash, expires = excluded.expires, scheduled = excluded.scheduled
      where u.expires < clock_timestamp();
  if not found then
    select u.seq, u.generation, u.scheduled into held from perdure.unique_keys u where u.scope = unique_scope and u.key = unique_key;
    if not found then
      raise exception using errcode = '40001', message = 'perdure.enqueue: the unique key''s holder went away', hint = 'run the transaction again';
    end if;
    seq := held.seq; generation := held.generation; scheduled := held.scheduled; outcome := 'duplicate';
    if idempotency_key is not null then
      update perdure.unique_keys u set seq = held.seq, generation = held.generation, scheduled = held.scheduled
        where u.scope = idempotent_scope and u.key = idempotency_key;
    end if;
    return;
  end if;
  insert into perdure.outbox (id, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, checked)
    values (seq, generation, run_at, deadline, kind, queue, key, content_type, headers, payload, is_checked);
  outcome := 'new';
end $$;
-- +goose StatementEnd
-- Nobody gives such keys back any more: their tasks hold them for a week from now.
update perdure.unique_keys set expires = clock_timestamp() + interval '168 hours' where expires = 'infinity';
drop function perdure.release_unique;
drop index perdure.unique_keys_held;
alter table perdure.kinds drop column unique_until_completed;
