-- First pages over a million letters: failure groups are counted, and letters
-- listed, without touching the letters' rows, which hold payloads.

-- +goose Up
create index dead_letters_groups on perdure.dead_letters (fingerprint, state, died_at) include (kind, queue, reason, release);
create index dead_letters_died on perdure.dead_letters (died_at, letter);
drop index perdure.dead_letters_fp;

-- +goose Down
create index dead_letters_fp on perdure.dead_letters (fingerprint, state, died_at);
drop index perdure.dead_letters_died;
drop index perdure.dead_letters_groups;
