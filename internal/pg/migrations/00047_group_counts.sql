-- Failure groups are counted as letters come and change, not when somebody looks: of
-- ten million letters that took longer than anybody waits (docs/decisions/0240).
-- And a letter costs less to write: a smaller index, and no attempt to compress what
-- fits half a page. The indexes that are in the way now go in 00048: their locks, taken
-- here, would be waited for by those who wait for the triggers.

-- +goose Up
create table perdure.group_counts (
  fingerprint text not null,
  state       text not null,
  kind        text not null,  -- '' = none
  queue       text not null,
  reason      text not null,
  n           bigint not null,
  first_seen  timestamptz,    -- the earliest death that was ever counted here, and the latest
  last_seen   timestamptz,
  primary key (fingerprint, state, kind, queue, reason)
);
-- By release apart: each release has letters of many groups, in many states.
create table perdure.group_releases (
  fingerprint text not null,
  release     text not null,
  n           bigint not null,
  primary key (fingerprint, release)
);
-- What changed since it was last added to the counts. Rows are only inserted, so
-- that nobody who writes letters waits for another.
create table perdure.group_changes (
  fingerprint text not null,
  state       text not null,
  kind        text not null,
  queue       text not null,
  reason      text not null,
  release     text not null,  -- '' = none
  n           bigint not null,
  first_seen  timestamptz,
  last_seen   timestamptz
);
-- It has no key, and rows go: a publication of all tables wants to be told how.
alter table perdure.group_changes replica identity full;
-- Both: of the same letters there may be several rows, whose sum counts.
create view perdure.group_rows as
select * from perdure.group_counts
union all
select fingerprint, state, kind, queue, reason, n, first_seen, last_seen from perdure.group_changes;
create view perdure.group_release_rows as
select * from perdure.group_releases
union all
select fingerprint, release, n from perdure.group_changes where release <> '';
create view perdure.groups_now as
select fingerprint, state, kind, queue, reason, sum(n)::bigint as n, min(first_seen) as first_seen, max(last_seen) as last_seen
from perdure.group_rows group by 1, 2, 3, 4, 5 having sum(n) > 0;

-- +goose StatementBegin
create function perdure.count_letters() returns trigger language plpgsql as $$
begin
  case tg_op
  when 'INSERT' then
    insert into perdure.group_changes
    select fingerprint, state, coalesce(kind, ''), queue, reason, release, count(*), min(died_at), max(died_at)
    from new_letters group by 1, 2, 3, 4, 5, 6;
  when 'UPDATE' then
    insert into perdure.group_changes
    select fingerprint, state, kind, queue, reason, release, sum(n), min(died_at) filter (where n > 0), max(died_at) filter (where n > 0)
    from (select fingerprint, state, coalesce(kind, '') as kind, queue, reason, release, died_at, 1 as n from new_letters
      union all
      select fingerprint, state, coalesce(kind, ''), queue, reason, release, died_at, -1 from old_letters) c
    group by 1, 2, 3, 4, 5, 6 having sum(n) <> 0;
  when 'DELETE' then
    insert into perdure.group_changes
    select fingerprint, state, coalesce(kind, ''), queue, reason, release, -count(*)
    from old_letters group by 1, 2, 3, 4, 5, 6;
  else -- TRUNCATE
    truncate perdure.group_counts, perdure.group_releases, perdure.group_changes;
  end case;
  return null;
end $$;
-- +goose StatementEnd
create trigger dead_letters_inserted after insert on perdure.dead_letters
  referencing new table as new_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_updated after update on perdure.dead_letters
  referencing new table as new_letters old table as old_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_deleted after delete on perdure.dead_letters
  referencing old table as old_letters for each statement execute function perdure.count_letters();
create trigger dead_letters_truncated after truncate on perdure.dead_letters
  for each statement execute function perdure.count_letters();
-- Nobody writes letters between the triggers and this: they hold the table until it is committed.
-- Also for whoever has written letters around the triggers, as a restore may.
-- +goose StatementBegin
create function perdure.recount_groups() returns void language plpgsql as $$
begin
  lock table perdure.dead_letters in share row exclusive mode;
  truncate perdure.group_counts, perdure.group_releases, perdure.group_changes;
  insert into perdure.group_counts
  select fingerprint, state, coalesce(kind, ''), queue, reason, count(*), min(died_at), max(died_at)
  from perdure.dead_letters group by 1, 2, 3, 4, 5;
  insert into perdure.group_releases
  select fingerprint, release, count(*) from perdure.dead_letters where release <> '' group by 1, 2;
end $$;
-- +goose StatementEnd
select perdure.recount_groups();

-- Adds what changed to the counts, at most so many rows, and returns how many those
-- were; 0 also where somebody else is at it.
-- +goose StatementBegin
create function perdure.fold_groups(most int) returns bigint language plpgsql as $$
declare folded bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0)) then
    return 0;
  end if;
  with d as (
    delete from perdure.group_changes where ctid = any (array(select ctid from perdure.group_changes limit most)) returning *),
  c as (
    insert into perdure.group_counts as c
    select fingerprint, state, kind, queue, reason, sum(n), min(first_seen), max(last_seen) from d group by 1, 2, 3, 4, 5
    on conflict (fingerprint, state, kind, queue, reason) do update set
      n = c.n + excluded.n, first_seen = least(c.first_seen, excluded.first_seen), last_seen = greatest(c.last_seen, excluded.last_seen)),
  r as (
    insert into perdure.group_releases as r
    select fingerprint, release, sum(n) from d where release <> '' group by 1, 2 having sum(n) <> 0
    on conflict (fingerprint, release) do update set n = r.n + excluded.n)
  select count(*) into folded from d;
  return folded;
end $$;
-- +goose StatementEnd

-- What is counted as none, and was once some.
-- +goose StatementBegin
create function perdure.prune_groups() returns void language plpgsql as $$
begin
  if pg_try_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0)) then
    delete from perdure.group_counts where n = 0;
    delete from perdure.group_releases where n = 0;
  end if;
end $$;
-- +goose StatementEnd

create index dead_letters_fp on perdure.dead_letters (fingerprint, state, died_at);
alter table perdure.dead_letters set (toast_tuple_target = 4080);

-- +goose StatementBegin
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

-- +goose Down
drop trigger dead_letters_inserted on perdure.dead_letters;
drop trigger dead_letters_updated on perdure.dead_letters;
drop trigger dead_letters_deleted on perdure.dead_letters;
drop trigger dead_letters_truncated on perdure.dead_letters;
drop index perdure.dead_letters_fp;
alter table perdure.dead_letters reset (toast_tuple_target);
drop function perdure.count_letters();
drop function perdure.fold_groups(int);
drop function perdure.prune_groups();
drop function perdure.recount_groups();
drop view perdure.groups_now;
drop view perdure.group_release_rows;
drop view perdure.group_rows;
drop table perdure.group_changes, perdure.group_releases, perdure.group_counts;
