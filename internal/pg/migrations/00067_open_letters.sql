-- By a state alone only open letters have an index. One of all states cost each letter an
-- entry whenever it changed, and lists by the others are read from their groups. Beside
-- readers and writers, and it can be begun again.

-- +goose NO TRANSACTION
-- +goose Up
reset lock_timeout; -- a try before had another
-- +goose StatementBegin
do $$
declare
  i regclass;
begin
  for i in select indexrelid from pg_index where indrelid = 'perdure.letter_states'::regclass and not indisvalid loop
    execute format('drop index %s', i);
  end loop;
end $$;
-- +goose StatementEnd
-- They wait for every transaction that is open, and nobody for them.
set lock_timeout = '1min';
create index concurrently if not exists letter_states_open on perdure.letter_states (died_at) where state = 'open';
drop index concurrently if exists perdure.letter_states_state;
reset lock_timeout;

-- +goose Down
reset lock_timeout; -- a try before had another
-- +goose StatementBegin
do $$
declare
  i regclass;
begin
  for i in select indexrelid from pg_index where indrelid = 'perdure.letter_states'::regclass and not indisvalid loop
    execute format('drop index %s', i);
  end loop;
end $$;
-- +goose StatementEnd
set lock_timeout = '1min';
create index concurrently if not exists letter_states_state on perdure.letter_states (state, died_at);
drop index concurrently if exists perdure.letter_states_open;
reset lock_timeout;
