-- What people say of a failure group. The group itself is its letters; one without
-- a row here is open. Nothing that reads Kafka writes to it, so a rebuilt index
-- finds it as it was.

-- +goose Up
create table perdure.failure_groups (
  fingerprint text primary key,
  state       text not null default 'open' check (state in ('open', 'acknowledged', 'muted', 'resolved')),
  state_at    timestamptz not null default clock_timestamp(),
  until       timestamptz,                  -- muted until then; null = until somebody says otherwise
  releases    text[] not null default '{}', -- resolved: those that had the group's letters until then
  owner       text not null default '',
  note        text not null default '',
  runbook     text not null default '',     -- an address
  who         text not null,                -- changed it last
  changed_at  timestamptz not null default clock_timestamp()
);

-- A muted group comes back when its time is over; a resolved one is regressed if
-- a letter died since then in a release that had none before, or in none that is known.
-- +goose StatementBegin
create function perdure.group_state(g perdure.failure_groups) returns text language sql stable as $$
  select case
    when g.state is null or g.state = 'muted' and g.until <= clock_timestamp() then 'open'
    when g.state = 'resolved' and exists (
      select from perdure.dead_letters d
      where d.fingerprint = g.fingerprint and d.died_at > g.state_at and d.release <> all (g.releases)) then 'regressed'
    else g.state end
$$;
-- +goose StatementEnd

-- +goose Down
drop function perdure.group_state(perdure.failure_groups);
drop table perdure.failure_groups;
