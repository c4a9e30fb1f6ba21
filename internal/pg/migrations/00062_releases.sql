-- When each release of the users' code was first there, as far as anybody saw: a worker
-- that told of it, or a letter that died in it. Policies ask which of two is newer.

-- +goose Up
create table perdure.releases (
  release  text primary key,
  began_at timestamptz not null,
  seen_at  timestamptz not null default clock_timestamp() -- a worker told of it, to the hour
);
insert into perdure.releases (release, began_at)
select release, min(first_seen) from perdure.group_release_rows where first_seen is not null group by 1;

-- +goose Down
drop table perdure.releases;
