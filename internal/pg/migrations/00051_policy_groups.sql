-- What a policy knows of each failure group: when it had its turn, so that no group
-- starves behind another, what was said of it, and that nothing of it can go.

-- +goose Up
create table perdure.policy_groups (
  policy       text not null references perdure.policies on delete cascade,
  fingerprint  text not null,
  turn_at      timestamptz,              -- when it had its last turn
  told         text not null default '', -- what a dry run said of it, so that it is said once
  rest_letters bigint,                   -- it rests: so many letters match, and none of them can go
  rest_last    timestamptz,              -- when the latest of them died
  rest_as      text,                     -- for the policy as it was then: a digest
  at           timestamptz not null default clock_timestamp(),
  primary key (policy, fingerprint)
);
-- What its replays refused before is tried again: a person switched it on.
alter table perdure.policies add column since timestamptz not null default '-infinity';

-- +goose Down
alter table perdure.policies drop column since;
drop table perdure.policy_groups;
