-- recount_groups (00047) truncated what it counts anew, which waits for every reader
-- and holds up all that come after; and it could meet fold_groups and deadlock.

-- +goose Up
-- The counts anew: for whoever has written letters around the triggers, as a restore may.
-- Who reads meanwhile sees the counts as they were.
-- +goose StatementBegin
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

-- +goose Down
-- +goose StatementBegin
create or replace function perdure.recount_groups() returns void language plpgsql as $$
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
