-- A replayed task that is cancelled is over too: its letter is settled, and its replay
-- is told of another outcome than of one that completed.

-- +goose Up
alter table perdure.resolutions add column outcome text not null default 'completed'; -- completed | cancelled

-- +goose Down
alter table perdure.resolutions drop column outcome;
