-- From here on a dead letter is two rows: perdure.letters is what it is, written once;
-- perdure.letter_states what becomes of it (docs/decisions/0270). perdure.dead_letters
-- is both, for whoever reads it; and processes of the version before write it until
-- they are replaced. Short: rows were copied by 00063.

-- +goose Up
drop trigger dead_letters_emptied on perdure.dead_letters;
drop trigger dead_letters_copied on perdure.dead_letters;
drop trigger dead_letters_inserted on perdure.dead_letters;
drop trigger dead_letters_updated on perdure.dead_letters;
drop trigger dead_letters_deleted on perdure.dead_letters;
drop trigger dead_letters_truncated on perdure.dead_letters;
drop trigger dead_letters_settled on perdure.dead_letters;
drop trigger dead_letters_parked on perdure.dead_letters;
drop function perdure.copy_state();
alter table perdure.dead_letters rename to letters;
-- Their indexes go with them.
alter table perdure.letters
  drop column state,
  drop column fingerprint,
  drop column joined_from,
  drop column resolved_by,
  drop column replays,
  drop column released,
  drop column changed_at;
drop index perdure.dead_letters_kind;
drop index perdure.dead_letters_queue;
alter index perdure.dead_letters_pkey rename to letters_pkey;
alter index perdure.dead_letters_task rename to letters_task;
alter index perdure.dead_letters_died rename to letters_died;
alter index perdure.dead_letters_key rename to letters_key;
alter index perdure.dead_letters_again rename to letters_again;

create view perdure.dead_letters as
select l.letter, l.task_id, l.epoch, l.kind, l.queue, l.key, s.state, l.reason, l.error_class, l.message, s.fingerprint, l.attempts, l.run, l.release, l.catalog, l.record_key, l.headers, l.payload, l.content_type, l.deadline, l.origin_topic, l.origin_partition, l.origin_offset, l.dlq_topic, l.dlq_partition, l.dlq_offset, l.died_at, l.indexed_at, s.changed_at, s.replays, s.resolved_by, l.cut, s.joined_from, l.block, l.blocked_by, l.place, s.released
from perdure.letters l join perdure.letter_states s on s.letter = l.letter;
alter view perdure.dead_letters
  alter column epoch set default 0,
  alter column state set default 'open',
  alter column error_class set default '',
  alter column message set default '',
  alter column attempts set default '[]',
  alter column run set default 0,
  alter column release set default '',
  alter column catalog set default '',
  alter column content_type set default '',
  alter column indexed_at set default clock_timestamp(),
  alter column changed_at set default clock_timestamp(),
  alter column replays set default 0,
  alter column resolved_by set default '',
  alter column cut set default false,
  alter column block set default false,
  alter column blocked_by set default '';

-- Whoever might read or write the table may do so still.
-- +goose StatementBegin
do $$
declare
  g record;
begin
  for g in
    select a.privilege_type, a.is_grantable, case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as who
    from pg_class c, aclexplode(c.relacl) a where c.oid = 'perdure.letters'::regclass and a.grantee <> c.relowner
  loop
    execute format('grant %s on perdure.dead_letters, perdure.letter_states to %s%s', g.privilege_type, g.who, case when g.is_grantable then ' with grant option' else '' end);
  end loop;
end $$;
-- +goose StatementEnd

-- Two rows where one was written. A state is set only where it is still what the
-- statement saw, and of the rest what it changed: a view's rows are not looked at again
-- after a wait.
-- +goose StatementBegin
create function perdure.write_letter() returns trigger language plpgsql as $$
declare n bigint;
begin
  if tg_op <> 'INSERT' then
    if tg_op = 'DELETE' then
      delete from perdure.letter_states where letter = old.letter and state = old.state;
      if not found then
        return null;
      end if;
      delete from perdure.letters where letter = old.letter;
      return old;
    end if;
    update perdure.letter_states s set (letter, state, fingerprint, joined_from, resolved_by, replays, released, changed_at, died_at, kind, queue, reason, release, epoch, block, line, place) =
      (new.letter, new.state,
      case when new.fingerprint is distinct from old.fingerprint then new.fingerprint else s.fingerprint end,
      case when new.joined_from is distinct from old.joined_from then new.joined_from else s.joined_from end,
      case when new.resolved_by is distinct from old.resolved_by then new.resolved_by else s.resolved_by end,
      s.replays + new.replays - old.replays,
      case when new.released is distinct from old.released then new.released else s.released end,
      case when new.changed_at is distinct from old.changed_at then new.changed_at else s.changed_at end,
      new.died_at, new.kind, new.queue, new.reason, new.release, new.epoch, new.block,
      case when new.block or new.reason = 'blocked' then new.key end, case when new.block or new.reason = 'blocked' then coalesce(new.place, new.origin_offset) end)
    where letter = old.letter and state = old.state;
    if not found then
      return null;
    end if;
    if (new.letter, new.task_id, new.epoch, new.kind, new.queue, new.key, new.reason, new.error_class, new.message, new.attempts, new.run, new.release, new.catalog, new.record_key, new.headers, new.payload, new.content_type, new.deadline, new.origin_topic, new.origin_partition, new.origin_offset, new.dlq_topic, new.dlq_partition, new.dlq_offset, new.died_at, new.indexed_at, new.cut, new.block, new.blocked_by, new.place)
      is distinct from (old.letter, old.task_id, old.epoch, old.kind, old.queue, old.key, old.reason, old.error_class, old.message, old.attempts, old.run, old.release, old.catalog, old.record_key, old.headers, old.payload, old.content_type, old.deadline, old.origin_topic, old.origin_partition, old.origin_offset, old.dlq_topic, old.dlq_partition, old.dlq_offset, old.died_at, old.indexed_at, old.cut, old.block, old.blocked_by, old.place) then
      update perdure.letters set (letter, task_id, epoch, kind, queue, key, reason, error_class, message, attempts, run, release, catalog, record_key, headers, payload, content_type, deadline, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, indexed_at, cut, block, blocked_by, place) =
        (new.letter, new.task_id, new.epoch, new.kind, new.queue, new.key, new.reason, new.error_class, new.message, new.attempts, new.run, new.release, new.catalog, new.record_key, new.headers, new.payload, new.content_type, new.deadline, new.origin_topic, new.origin_partition, new.origin_offset, new.dlq_topic, new.dlq_partition, new.dlq_offset, new.died_at, new.indexed_at, new.cut, new.block, new.blocked_by, new.place)
      where letter = old.letter;
    end if;
    return new;
  end if;
  insert into perdure.letters (letter, task_id, epoch, kind, queue, key, reason, error_class, message, attempts, run, release, catalog, record_key, headers, payload, content_type, deadline, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, indexed_at, cut, block, blocked_by, place)
  values (new.letter, new.task_id, new.epoch, new.kind, new.queue, new.key, new.reason, new.error_class, new.message, new.attempts, new.run, new.release, new.catalog, new.record_key, new.headers, new.payload, new.content_type, new.deadline, new.origin_topic, new.origin_partition, new.origin_offset, new.dlq_topic, new.dlq_partition, new.dlq_offset, new.died_at, new.indexed_at, new.cut, new.block, new.blocked_by, new.place);
  insert into perdure.letter_states (letter, state, fingerprint, joined_from, resolved_by, replays, released, changed_at, died_at, kind, queue, reason, release, epoch, block, line, place)
  values (new.letter, new.state, new.fingerprint, new.joined_from, new.resolved_by, new.replays, new.released, new.changed_at, new.died_at, new.kind, new.queue, new.reason, new.release, new.epoch, new.block,
    case when new.block or new.reason = 'blocked' then new.key end, case when new.block or new.reason = 'blocked' then coalesce(new.place, new.origin_offset) end);
  return new;
end $$;
-- +goose StatementEnd
create trigger dead_letters_written instead of insert or update or delete on perdure.dead_letters for each row execute function perdure.write_letter();

create trigger letter_states_inserted after insert on perdure.letter_states
  referencing new table as new_letters for each statement execute function perdure.count_letters();
create trigger letter_states_updated after update on perdure.letter_states
  referencing new table as new_letters old table as old_letters for each statement execute function perdure.count_letters();
create trigger letter_states_deleted after delete on perdure.letter_states
  referencing old table as old_letters for each statement execute function perdure.count_letters();
create trigger letter_states_truncated after truncate on perdure.letter_states
  for each statement execute function perdure.count_letters();

-- +goose StatementBegin
create or replace function perdure.recount_groups() returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0));
  lock table perdure.letter_states in share row exclusive mode;
  delete from perdure.group_counts;
  delete from perdure.group_releases;
  delete from perdure.group_changes;
  insert into perdure.group_counts
  select fingerprint, state, coalesce(kind, ''), queue, reason, count(*), min(died_at), max(died_at)
  from perdure.letter_states group by 1, 2, 3, 4, 5;
  insert into perdure.group_releases
  select fingerprint, release, count(*), min(died_at), max(died_at) from perdure.letter_states where release <> '' group by 1, 2;
end $$;
create or replace function perdure.blocks_stand(q text, k text) returns boolean language sql stable as $$
  select exists (select from perdure.letter_states where queue = q and line = k and block and state in ('open', 'held', 'replaying'))
$$;
create or replace function perdure.want_lift() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' or not perdure.blocks_stand(new.queue, new.line) then
    insert into perdure.key_lifts (queue, key) values (new.queue, new.line) on conflict (queue, key) do update set wanted = true;
  end if;
  return null;
end $$;
-- +goose StatementEnd
create trigger letter_states_settled after update of state on perdure.letter_states for each row
  when (new.block and new.line is not null and new.state in ('resolved', 'discarded') and old.state not in ('resolved', 'discarded'))
  execute function perdure.want_lift();
create trigger letter_states_parked after insert on perdure.letter_states for each row
  when (new.reason = 'blocked' and new.line is not null)
  execute function perdure.want_lift();
-- +goose StatementBegin
create or replace function perdure.group_state(g perdure.failure_groups) returns text language sql stable as $$
  select case
    when g.state is null or g.state = 'muted' and g.until <= clock_timestamp() then 'open'
    when g.state = 'resolved' and exists (
      select from perdure.letter_states d
      where d.fingerprint = g.fingerprint and d.state in ('open', 'held', 'replaying', 'resolved', 'discarded')
        and d.died_at > g.state_at and d.release <> all (g.releases)) then 'regressed'
    else g.state end
$$;
-- +goose StatementEnd

-- +goose Down
drop view perdure.dead_letters;
drop function perdure.write_letter();
-- In the view's order. A state that is being written shall not be left behind.
lock table perdure.letters, perdure.letter_states in access exclusive mode;
alter table perdure.letters rename to dead_letters;
alter index perdure.letters_pkey rename to dead_letters_pkey;
alter index perdure.letters_task rename to dead_letters_task;
alter index perdure.letters_died rename to dead_letters_died;
alter index perdure.letters_key rename to dead_letters_key;
alter index perdure.letters_again rename to dead_letters_again;
alter table perdure.dead_letters
  add column state text not null default 'open', add column fingerprint text, add column joined_from text, add column resolved_by text not null default '',
  add column replays int not null default 0, add column released bigint, add column changed_at timestamptz not null default clock_timestamp();
update perdure.dead_letters d set state = s.state, fingerprint = s.fingerprint, joined_from = s.joined_from, resolved_by = s.resolved_by,
  replays = s.replays, released = s.released, changed_at = s.changed_at
from perdure.letter_states s where s.letter = d.letter;
alter table perdure.dead_letters alter column fingerprint set not null;
create index dead_letters_fp on perdure.dead_letters (fingerprint, state, died_at);
create index dead_letters_state on perdure.dead_letters (state, died_at);
create index dead_letters_kind on perdure.dead_letters (kind, died_at);
create index dead_letters_queue on perdure.dead_letters (queue, died_at);
create index dead_letters_finished on perdure.dead_letters (queue, changed_at) where state in ('resolved', 'discarded');
create index dead_letters_joined on perdure.dead_letters (joined_from) where joined_from is not null;
create index dead_letters_lines on perdure.dead_letters (queue, key, state, place) where block or reason = 'blocked';
create index dead_letters_blocks on perdure.dead_letters (queue, key) where block and state in ('open', 'held', 'replaying');
create index dead_letters_waiting on perdure.dead_letters (queue, key, (coalesce(place, origin_offset)), epoch, letter) where reason = 'blocked' and state = 'held';
drop trigger letter_states_inserted on perdure.letter_states;
drop trigger letter_states_updated on perdure.letter_states;
drop trigger letter_states_deleted on perdure.letter_states;
drop trigger letter_states_truncated on perdure.letter_states;
drop trigger letter_states_settled on perdure.letter_states;
drop trigger letter_states_parked on perdure.letter_states;
create trigger dead_letters_inserted after insert on perdure.dead_letters
  referencing new table as new_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_updated after update on perdure.dead_letters
  referencing new table as new_letters old table as old_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_deleted after delete on perdure.dead_letters
  referencing old table as old_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_truncated after truncate on perdure.dead_letters
  for each statement execute function perdure.count_letters();
create trigger dead_letters_settled after update of state on perdure.dead_letters for each row
  when (new.block and new.key is not null and new.state in ('resolved', 'discarded') and old.state not in ('resolved', 'discarded'))
  execute function perdure.want_lift();
create trigger dead_letters_parked after insert on perdure.dead_letters for each row
  when (new.reason = 'blocked' and new.key is not null)
  execute function perdure.want_lift();
-- +goose StatementBegin
create function perdure.copy_state() returns trigger language plpgsql as $$
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
create or replace function perdure.recount_groups() returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0));
  lock table perdure.dead_letters in share row exclusive mode;
  delete from perdure.group_counts;
  delete from perdure.group_releases;
  delete from perdure.group_changes;
  insert into perdure.group_counts
  select fingerprint, state, coalesce(kind, ''), queue, reason, count(*), min(died_at), max(died_at)
  from perdure.dead_letters group by 1, 2, 3, 4, 5;
  insert into perdure.group_releases
  select fingerprint, release, count(*), min(died_at), max(died_at) from perdure.dead_letters where release <> '' group by 1, 2;
end $$;
create or replace function perdure.blocks_stand(q text, k text) returns boolean language sql stable as $$
  select exists (select from perdure.dead_letters where queue = q and key = k and block and state in ('open', 'held', 'replaying'))
$$;
create or replace function perdure.want_lift() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' or not perdure.blocks_stand(new.queue, new.key) then
    insert into perdure.key_lifts (queue, key) values (new.queue, new.key) on conflict (queue, key) do update set wanted = true;
  end if;
  return null;
end $$;
create or replace function perdure.group_state(g perdure.failure_groups) returns text language sql stable as $$
  select case
    when g.state is null or g.state = 'muted' and g.until <= clock_timestamp() then 'open'
    when g.state = 'resolved' and exists (
      select from perdure.dead_letters d
      where d.fingerprint = g.fingerprint and d.state in ('open', 'held', 'replaying', 'resolved', 'discarded')
        and d.died_at > g.state_at and d.release <> all (g.releases)) then 'regressed'
    else g.state end
$$;
-- +goose StatementEnd
create trigger dead_letters_copied after insert or update or delete on perdure.dead_letters for each row execute function perdure.copy_state();
create trigger dead_letters_emptied after truncate on perdure.dead_letters for each statement execute function perdure.copy_state();
