-- What is due leaves by turns of its queues. scheduled_due stays: how much of a queue is
-- due, and when the first is, is asked by it.

-- +goose Up
create index scheduled_queue on perdure.scheduled (queue, due, id);

-- +goose Down
drop index perdure.scheduled_queue;
