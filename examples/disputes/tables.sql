-- The example's own data, beside Perdure's schema in the same database.
create schema if not exists disputes;

create table if not exists disputes.disputes (
  dispute_id   text primary key,
  charge_id    text not null,
  amount_cents bigint not null,
  currency     text not null,
  reason       text not null,
  evidence     text[] not null,
  taken_at     timestamptz not null default clock_timestamp()
);

-- No unique constraint: a refund paid twice must be visible, not prevented here.
create table if not exists disputes.refunds (
  dispute_id   text not null,
  amount_cents bigint not null,
  currency     text not null,
  task_id      text not null,
  run          bigint not null,
  paid_at      timestamptz not null default clock_timestamp()
);
create index if not exists refunds_dispute on disputes.refunds (dispute_id);
