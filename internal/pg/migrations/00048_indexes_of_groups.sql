-- What dead_letters_fp and the counts of groups (00047) do now.

-- +goose Up
drop index perdure.dead_letters_groups;
drop index perdure.dead_letters_open_groups;

-- +goose Down
create index dead_letters_open_groups on perdure.dead_letters (kind, fingerprint, died_at) where state = 'open';
create index dead_letters_groups on perdure.dead_letters (fingerprint, state, died_at) include (kind, queue, reason, release);
