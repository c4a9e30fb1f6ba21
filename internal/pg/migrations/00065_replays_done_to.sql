-- A letter's mark in a replay's plan is written in place: no index knows the result of
-- a letter that was replayed, and a page has room for what is added (00066 makes the
-- indexes). What is left is found from where all were done.

-- +goose Up
alter table perdure.replays add column done_to bigint not null default 0; -- each letter up to this n was replayed or refused
alter table perdure.replay_letters set (fillfactor = 40);

-- +goose Down
alter table perdure.replay_letters reset (fillfactor);
alter table perdure.replays drop column done_to;
