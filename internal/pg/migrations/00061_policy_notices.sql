-- What policies tell of failure groups by webhook: written with the act, sent until it
-- is answered, and given up after so many tries.

-- +goose Up
create table perdure.policy_notices (
  notice      text primary key,          -- its webhook-id
  policy      text not null references perdure.policies on delete cascade,
  fingerprint text not null,
  body        bytea not null,            -- as it is signed
  made_at     timestamptz not null default clock_timestamp(),
  tries       int not null default 0,
  due_at      timestamptz not null default clock_timestamp(), -- of the next try
  over_at     timestamptz,               -- sent, or given up
  failed      text not null default ''   -- why the last try failed; '' = it did not
);
create index policy_notices_due on perdure.policy_notices (due_at) where over_at is null;
create index policy_notices_over on perdure.policy_notices (over_at) where over_at is not null;

-- +goose Down
drop table perdure.policy_notices;
