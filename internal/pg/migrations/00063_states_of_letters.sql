-- What changes of a dead letter, apart from what it is: a change of state was a new
-- version of a row of kilobytes, with an entry in each of eight indexes. This copies it
-- beside readers and writers, some rows at a time, and can be begun again; 00064 is the
-- moment from which it counts.

-- +goose NO TRANSACTION
-- +goose Up
reset lock_timeout; -- a try before had another
create table if not exists perdure.letter_states (
  letter      text primary key,     -- perdure.letters has the rest of it
  state       text not null default 'open',
  fingerprint text not null,        -- of the group: another than its cause's where that is joined to another
  joined_from text,                 -- its cause's own fingerprint, where its group was joined to another
  resolved_by text not null default '',
  replays     int not null default 0,
  released    bigint,               -- outbox row with which a lift let it go
  changed_at  timestamptz not null default clock_timestamp(),
  -- What never changes, and is counted or asked together with the state.
  died_at     timestamptz not null,
  kind        text,
  queue       text not null,
  reason      text not null,
  release     text not null default '',
  epoch       int not null default 0,
  block       boolean not null default false,
  line        text,                 -- its key, where it blocks or waits
  place       bigint                -- in that line
);

-- +goose StatementBegin
create or replace function perdure.copy_state() returns trigger language plpgsql as $$
begin
  if tg_op = 'TRUNCATE' then
    truncate perdure.letter_states;
  elsif tg_op = 'DELETE' then
    delete from perdure.letter_states where letter = old.letter;
  else
    insert into perdure.letter_states as s (letter, state, fingerprint, joined_from, resolved_by, replays, released, changed_at, died_at, kind, queue, reason, release, epoch, block, line, place)
    values (new.letter, new.state, new.fingerprint, new.joined_from, new.resolved_by, new.replays, new.released, new.changed_at, new.died_at, new.kind, new.queue, new.reason, new.release,
      new.epoch, new.block, case when new.block or new.reason = 'blocked' then new.key end, case when new.block or new.reason = 'blocked' then coalesce(new.place, new.origin_offset) end)
    on conflict (letter) do update set state = excluded.state, fingerprint = excluded.fingerprint, joined_from = excluded.joined_from, resolved_by = excluded.resolved_by,
      replays = excluded.replays, released = excluded.released, changed_at = excluded.changed_at;
  end if;
  return null;
end $$;
-- +goose StatementEnd
-- A try that was broken off leaves them, and so does this one: between a drop and a create
-- those who waited for the drop would change letters that were copied before.
-- +goose StatementBegin
do $$
begin
  if not exists (select from pg_trigger where tgrelid = 'perdure.dead_letters'::regclass and tgname = 'dead_letters_copied') then
    create trigger dead_letters_copied after insert or update or delete on perdure.dead_letters for each row execute function perdure.copy_state();
    create trigger dead_letters_emptied after truncate on perdure.dead_letters for each statement execute function perdure.copy_state();
  end if;
end $$;
-- +goose StatementEnd

-- A row that is changed meanwhile is written by the trigger, whoever comes first.
-- +goose StatementBegin
do $$
declare
  behind text := '';
  upto text;
begin
  loop
    select max(letter) into upto from (select letter from perdure.dead_letters where letter > behind order by letter limit 20000) l;
    exit when upto is null;
    insert into perdure.letter_states (letter, state, fingerprint, joined_from, resolved_by, replays, released, changed_at, died_at, kind, queue, reason, release, epoch, block, line, place)
    select letter, state, fingerprint, joined_from, resolved_by, replays, released, changed_at, died_at, kind, queue, reason, release, epoch,
      block, case when block or reason = 'blocked' then key end, case when block or reason = 'blocked' then coalesce(place, origin_offset) end
    from perdure.dead_letters where letter > behind and letter <= upto order by letter
    on conflict do nothing;
    commit;
    behind := upto;
  end loop;
end $$;
-- +goose StatementEnd
-- Deleted between the reading of a part and its writing.
delete from perdure.letter_states s where not exists (select from perdure.dead_letters d where d.letter = s.letter);

-- Those of a try that was broken off stay, but for the one that it was at.
-- +goose StatementBegin
do $$
declare
  i regclass;
begin
  for i in select indexrelid from pg_index where indrelid in ('perdure.dead_letters'::regclass, 'perdure.letter_states'::regclass) and not indisvalid loop
    execute format('drop index %s', i);
  end loop;
end $$;
-- +goose StatementEnd
-- They wait for every transaction that is open, and nobody for them.
set lock_timeout = '1min';
create index concurrently if not exists letter_states_fp on perdure.letter_states (fingerprint, state, died_at);
create index concurrently if not exists letter_states_state on perdure.letter_states (state, died_at);
create index concurrently if not exists letter_states_finished on perdure.letter_states (queue, changed_at) where state in ('resolved', 'discarded');
create index concurrently if not exists letter_states_joined on perdure.letter_states (joined_from) where joined_from is not null;
create index concurrently if not exists letter_states_blocks on perdure.letter_states (queue, line) where block and state in ('open', 'held', 'replaying');
create index concurrently if not exists letter_states_waiting on perdure.letter_states (queue, line, place, epoch, letter) where reason = 'blocked' and state = 'held';
create index concurrently if not exists letters_kind on perdure.dead_letters (kind, died_at, letter);
create index concurrently if not exists letters_queue on perdure.dead_letters (queue, died_at, letter);
create index concurrently if not exists letters_line on perdure.dead_letters (queue, key) where block or reason = 'blocked';
reset lock_timeout;
analyze perdure.letter_states;

-- +goose Down
drop trigger if exists dead_letters_emptied on perdure.dead_letters;
drop trigger if exists dead_letters_copied on perdure.dead_letters;
drop function if exists perdure.copy_state();
drop index if exists perdure.letters_line, perdure.letters_queue, perdure.letters_kind;
drop table if exists perdure.letter_states;
