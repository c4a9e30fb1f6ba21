-- Tasks that `perdure outbox reset` took out of the relay's way: Kafka may have
-- them already, or another task under their id. Nothing sends them by itself; a
-- person releases or discards each.

-- +goose Up
create table perdure.held (
  id  bigint primary key,
  held_at timestamptz not null default clock_timestamp(),
  was text not null,                   -- where it waited: outbox | scheduled | parked
  due timestamptz,                     -- run_at, if it had one
  generation int not null, epoch int not null, created_at timestamptz not null, deadline timestamptz,
  kind text not null, queue text not null, key text, task_id text,
  content_type text not null, headers jsonb, payload bytea not null, checked boolean not null
);

-- +goose Down
drop table perdure.held;
