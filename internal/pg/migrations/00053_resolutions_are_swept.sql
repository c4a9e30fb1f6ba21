-- A letter and its resolution that two transactions write at once do not see each other:
-- the index looks later for such letters, by when a resolution was written here.

-- +goose Up
alter table perdure.resolutions add column noted_at timestamptz not null default now();
create index resolutions_noted on perdure.resolutions (noted_at, task_id);

-- +goose Down
drop index perdure.resolutions_noted;
alter table perdure.resolutions drop column noted_at;
