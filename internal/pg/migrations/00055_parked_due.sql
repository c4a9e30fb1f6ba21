-- A scheduled task whose topic is broken when it is due waits as a parked one, and
-- start_within counts from when it was due. Null: from when it was enqueued.

-- +goose Up
alter table perdure.parked add column due timestamptz;

-- +goose Down
alter table perdure.parked drop column due;
