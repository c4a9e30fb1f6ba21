-- The letters of tasks that died again, by when they were written here: two letters of
-- one task that two transactions write at once do not see each other, and the index
-- looks at them again.

-- +goose Up
create index dead_letters_again on perdure.dead_letters (indexed_at, letter) where epoch > 0 and reason <> 'undecodable';

-- +goose Down
drop index perdure.dead_letters_again;
