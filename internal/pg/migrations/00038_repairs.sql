-- Payloads that a replay's fixer made: the letter keeps the original, and is never
-- changed.

-- +goose Up
create table perdure.replay_fixes (
  replay  text not null references perdure.replays on delete cascade,
  n       bigint not null,               -- of the letter in the replay
  letter  text not null,
  payload bytea not null,                -- the repaired one
  repair  int not null,                  -- of the task, from 1: its idempotency key is <task id>-r<repair>
  moved   boolean not null default true, -- false: a sample of the plan, nothing was replayed with it yet
  at      timestamptz not null default clock_timestamp(),
  primary key (replay, n)
);
create index replay_fixes_letter on perdure.replay_fixes (letter);

-- +goose Down
drop table perdure.replay_fixes;
