-- Indexes of a plan's letters by what only a refusal or an outcome changes. Beside
-- readers and writers, and it can be begun again.

-- +goose NO TRANSACTION
-- +goose Up
reset lock_timeout; -- a try before had another
-- +goose StatementBegin
do $$
declare
  i regclass;
begin
  for i in select indexrelid from pg_index where indrelid = 'perdure.replay_letters'::regclass and not indisvalid loop
    execute format('drop index %s', i);
  end loop;
end $$;
-- +goose StatementEnd
-- They wait for every transaction that is open, and nobody for them.
set lock_timeout = '1min';
create index concurrently if not exists replay_letters_why on perdure.replay_letters (replay, n) where detail <> '';
create index concurrently if not exists replay_letters_cause on perdure.replay_letters (replay, n) where fingerprint <> '';
drop index concurrently if exists perdure.replay_letters_left;
drop index concurrently if exists perdure.replay_letters_refused;
drop index concurrently if exists perdure.replay_letters_died;
reset lock_timeout;

-- +goose Down
reset lock_timeout; -- a try before had another
-- +goose StatementBegin
do $$
declare
  i regclass;
begin
  for i in select indexrelid from pg_index where indrelid = 'perdure.replay_letters'::regclass and not indisvalid loop
    execute format('drop index %s', i);
  end loop;
end $$;
-- +goose StatementEnd
set lock_timeout = '1min';
create index concurrently if not exists replay_letters_left on perdure.replay_letters (replay, n) where result = '';
create index concurrently if not exists replay_letters_refused on perdure.replay_letters (replay, n) where result = 'refused';
create index concurrently if not exists replay_letters_died on perdure.replay_letters (replay, n) where outcome = 'died_again';
drop index concurrently if exists perdure.replay_letters_why;
drop index concurrently if exists perdure.replay_letters_cause;
reset lock_timeout;
