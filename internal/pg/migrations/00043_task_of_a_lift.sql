-- A lift's words name the task that its ask named, whatever becomes of the letters of
-- its key meanwhile: they may be pruned before a worker answers.

-- +goose Up
alter table perdure.key_lifts add column task text; -- of the ask; null: none is under way
update perdure.key_lifts k set task = coalesce((select d.task_id from perdure.dead_letters d
  where d.queue = k.queue and d.key = k.key and (d.block or d.reason = 'blocked') and d.task_id is not null order by d.dlq_offset desc limit 1),
  nullif(split_part(blocks, '@', 1), ''))
where stage <> 'none';

-- +goose Down
alter table perdure.key_lifts drop column task;
