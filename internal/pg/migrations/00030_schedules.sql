-- When the kinds with a schedule in the catalog are due next. The relay moves
-- next_at and writes the task's outbox row in one transaction, so each time is
-- filed once, whichever relay comes to it.

-- +goose Up
create table perdure.schedules (
  kind    text primary key,
  spec    text not null,               -- cron and time zone; a change begins anew, from now
  next_at timestamptz not null,
  last_at timestamptz,                 -- the time last filed; null = none yet
  fired   bigint not null default 0    -- tasks filed so far
);

-- +goose Down
drop table perdure.schedules;
