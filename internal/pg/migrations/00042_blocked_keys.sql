-- on_dead: block (docs/decisions/0220): a dead task of a key stands before the later
-- ones, which wait as held letters with reason blocked. When it is settled, a lift
-- lets them go in the order they had.

-- +goose Up
alter table perdure.dead_letters
  add column block boolean not null default false,  -- no later task of the key runs until it is settled
  add column blocked_by text not null default '',    -- reason blocked: the letter that it waits for
  add column place bigint,                           -- offset that its task had first; null: of an older version
  add column released bigint;                        -- outbox row with which a lift let it go
create index dead_letters_lines on perdure.dead_letters (queue, key, state, place) where block or reason = 'blocked';

-- A key whose line has to be looked at. One lift is under way for a key at most; what
-- is wanted meanwhile is remembered.
create sequence perdure.lift_seq as bigint;
create table perdure.key_lifts (
  queue    text not null,
  key      text not null,
  wanted   boolean not null default true,
  stage    text not null default 'none' check (stage in ('none', 'asked', 'answered', 'releasing')),
  lift     bigint,                                   -- its number, from lift_seq; null: none is under way
  blocks   text not null default '',                 -- of the answer: letters, between spaces
  at       timestamptz not null default clock_timestamp(),
  primary key (queue, key)
);

-- +goose StatementBegin
create function perdure.blocks_stand(q text, k text) returns boolean language sql stable as $$
  select exists (select from perdure.dead_letters where queue = q and key = k and block and state in ('open', 'held', 'replaying'))
$$;
-- +goose StatementEnd

-- Every way to settle a letter passes here.
-- +goose StatementBegin
create function perdure.want_lift() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' or not perdure.blocks_stand(new.queue, new.key) then
    insert into perdure.key_lifts (queue, key) values (new.queue, new.key) on conflict (queue, key) do update set wanted = true;
  end if;
  return null;
end $$;
-- +goose StatementEnd
create trigger dead_letters_settled after update of state on perdure.dead_letters for each row
  when (new.block and new.key is not null and new.state in ('resolved', 'discarded') and old.state not in ('resolved', 'discarded'))
  execute function perdure.want_lift();
-- Parked where nothing stands any more: the worker's knowledge is older.
create trigger dead_letters_parked after insert on perdure.dead_letters for each row
  when (new.reason = 'blocked' and new.key is not null)
  execute function perdure.want_lift();

-- A word to a key's line goes the way of its tasks. It has a task's id, so that
-- nobody counts it as a task of its own, and no kind that anybody runs.
-- +goose StatementBegin
create function perdure.put_line(q text, k text, task text, line text) returns bigint language sql as $$
  insert into perdure.outbox (task_id, kind, queue, key, headers, payload, checked)
  values (task, 'perdure.line', q, k, jsonb_build_object('perdure_line', line), '{}', true) returning id
$$;
-- +goose StatementEnd

-- A worker stands at lift n of a key. Where that is over (its end was lost, or the
-- ask came twice) the worker gets another end: it must not stand for ever.
-- +goose StatementBegin
create function perdure.answer_lift(q text, k text, task text, n bigint, b text) returns void language plpgsql as $$
begin
  update perdure.key_lifts set stage = 'answered', blocks = b, at = clock_timestamp()
    where queue = q and key = k and lift = n and stage = 'asked';
  if not found and not exists (select from perdure.key_lifts where queue = q and key = k and lift = n) then
    perform perdure.put_line(q, k, task, 'end ' || n);
  end if;
end $$;
-- +goose StatementEnd

-- +goose Down
drop trigger dead_letters_parked on perdure.dead_letters;
drop trigger dead_letters_settled on perdure.dead_letters;
drop function perdure.answer_lift(text, text, text, bigint, text);
drop function perdure.put_line(text, text, text, text);
drop function perdure.want_lift();
drop function perdure.blocks_stand(text, text);
drop table perdure.key_lifts;
drop sequence perdure.lift_seq;
drop index perdure.dead_letters_lines;
alter table perdure.dead_letters drop column block, drop column blocked_by, drop column place, drop column released;
