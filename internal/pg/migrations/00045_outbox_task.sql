-- One task of the outbox by its number (docs/decisions/0230): no index has the tasks of a
-- bundle behind its first, so this looks at the rows in which it can be.

-- +goose Up
create function perdure.outbox_task(seq bigint) returns setof perdure.outbox_tasks language sql stable as
  'select * from perdure.outbox_tasks where id = seq and row_id > seq - 64 and row_id <= seq';

-- +goose Down
drop function perdure.outbox_task(bigint);
