-- When letters of a group died in each release: which was the first, and which the
-- last. Until now releases had no order but their names'.

-- +goose Up
alter table perdure.group_releases add column first_seen timestamptz, add column last_seen timestamptz;
-- +goose StatementBegin
create or replace view perdure.group_release_rows as
select fingerprint, release, n, first_seen, last_seen from perdure.group_releases
union all
select fingerprint, release, n, first_seen, last_seen from perdure.group_changes where release <> '';
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function perdure.fold_groups(most int) returns bigint language plpgsql as $$
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
    select fingerprint, release, sum(n), min(first_seen), max(last_seen) from d where release <> '' group by 1, 2 having sum(n) <> 0
    on conflict (fingerprint, release) do update set
      n = r.n + excluded.n, first_seen = least(r.first_seen, excluded.first_seen), last_seen = greatest(r.last_seen, excluded.last_seen))
  select count(*) into folded from d;
  return folded;
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
-- +goose StatementEnd
-- Of the letters that are there: one that is written meanwhile brings its own.
select pg_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0));
update perdure.group_releases r set first_seen = d.first_seen, last_seen = d.last_seen
from (select fingerprint, release, min(died_at) as first_seen, max(died_at) as last_seen from perdure.dead_letters where release <> '' group by 1, 2) d
where r.fingerprint = d.fingerprint and r.release = d.release;

-- +goose Down
drop view perdure.group_release_rows;
alter table perdure.group_releases drop column first_seen, drop column last_seen;
create view perdure.group_release_rows as
select * from perdure.group_releases
union all
select fingerprint, release, n from perdure.group_changes where release <> '';
-- +goose StatementBegin
create or replace function perdure.fold_groups(most int) returns bigint language plpgsql as $$
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
  select fingerprint, release, count(*) from perdure.dead_letters where release <> '' group by 1, 2;
end $$;
-- +goose StatementEnd
