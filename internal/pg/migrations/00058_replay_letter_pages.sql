-- The letters that a replay refused, and those that died again, are paged in the
-- replay's order.

-- +goose Up
drop index perdure.replay_letters_refused;
drop index perdure.replay_letters_died;
create index replay_letters_refused on perdure.replay_letters (replay, n) where result = 'refused';
create index replay_letters_died on perdure.replay_letters (replay, n) where outcome = 'died_again';

-- +goose Down
drop index perdure.replay_letters_refused;
drop index perdure.replay_letters_died;
create index replay_letters_refused on perdure.replay_letters (replay) where result = 'refused';
create index replay_letters_died on perdure.replay_letters (replay) where outcome = 'died_again';
