-- No letter of a group, in a state, died after the last_seen that its counts tell: lists
-- by a state ask groups in that order (docs/decisions/0300). It was so but where one
-- statement took as many letters out of a state as into it, or changed when they died
-- (none of Perdure's does), and where counts that are none were removed while only a part
-- of what changed was added to them.

-- +goose Up
-- +goose StatementBegin
create or replace function perdure.count_letters() returns trigger language plpgsql as $$
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
    group by 1, 2, 3, 4, 5, 6
    having sum(n) <> 0 or min(died_at) filter (where n > 0) < min(died_at) filter (where n < 0) or max(died_at) filter (where n > 0) > max(died_at) filter (where n < 0);
  when 'DELETE' then
    insert into perdure.group_changes
    select fingerprint, state, coalesce(kind, ''), queue, reason, release, -count(*)
    from old_letters group by 1, 2, 3, 4, 5, 6;
  else -- TRUNCATE
    truncate perdure.group_counts, perdure.group_releases, perdure.group_changes;
  end case;
  return null;
end $$;
-- What is counted as none, and was once some. Not where something of it was not added
-- yet: that may be letters that went, and last_seen of those that stay be the count's.
create or replace function perdure.prune_groups() returns void language plpgsql as $$
begin
  if pg_try_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0)) then
    delete from perdure.group_counts c where n = 0
      and not exists (select from perdure.group_changes d where (d.fingerprint, d.state, d.kind, d.queue, d.reason) = (c.fingerprint, c.state, c.kind, c.queue, c.reason));
    delete from perdure.group_releases r where n = 0
      and not exists (select from perdure.group_changes d where (d.fingerprint, d.release) = (r.fingerprint, r.release));
  end if;
end $$;
-- +goose StatementEnd
-- What is too low by now, is told. One look at the states, which nobody waits for: who
-- writes letters meanwhile tells of these as always.
insert into perdure.group_changes
select l.fingerprint, l.state, l.kind, l.queue, l.reason, '', 0, null, l.last
from (
  select fingerprint, state, coalesce(kind, '') as kind, queue, reason, max(died_at) as last
  from perdure.letter_states group by 1, 2, 3, 4, 5) l
left join (
  select fingerprint, state, kind, queue, reason, max(last_seen) as bound
  from perdure.group_rows group by 1, 2, 3, 4, 5) c using (fingerprint, state, kind, queue, reason)
where c.bound is null or c.bound < l.last;

-- +goose Down
-- +goose StatementBegin
create or replace function perdure.count_letters() returns trigger language plpgsql as $$
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
create or replace function perdure.prune_groups() returns void language plpgsql as $$
begin
  if pg_try_advisory_xact_lock(hashtextextended('perdure.fold_groups', 0)) then
    delete from perdure.group_counts where n = 0;
    delete from perdure.group_releases where n = 0;
  end if;
end $$;
-- +goose StatementEnd
