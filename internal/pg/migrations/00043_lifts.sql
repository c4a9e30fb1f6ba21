-- Lifts of keys behind which many tasks wait.

-- +goose Up
-- A lift's words name the task that its ask named, whatever becomes of the letters of
-- its key meanwhile: they may be pruned before a worker answers.
alter table perdure.key_lifts add column task text; -- of the ask; null: none is under way, or an older version asked
update perdure.key_lifts k set task = coalesce((select d.task_id from perdure.dead_letters d
  where d.queue = k.queue and d.key = k.key and (d.block or d.reason = 'blocked') and d.task_id is not null order by d.dlq_offset desc limit 1),
  nullif(split_part(blocks, '@', 1), ''))
where stage <> 'none';

-- Whether a letter stands is asked for each task that waits behind it: not by reading
-- those that wait. And a slice of these is read in their order.
create index dead_letters_blocks on perdure.dead_letters (queue, key) where block and state in ('open', 'held', 'replaying');
create index dead_letters_waiting on perdure.dead_letters (queue, key, (coalesce(place, origin_offset)), epoch, letter) where reason = 'blocked' and state = 'held';

-- +goose Down
drop index perdure.dead_letters_waiting;
drop index perdure.dead_letters_blocks;
alter table perdure.key_lifts drop column task;
