-- Pruning looks every few minutes for finished letters that are old: without
-- reading those that nobody has finished.

-- +goose Up
create index dead_letters_finished on perdure.dead_letters (queue, changed_at) where state in ('resolved', 'discarded');

-- +goose Down
drop index perdure.dead_letters_finished;
