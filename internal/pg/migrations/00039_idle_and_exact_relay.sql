-- Two functions of the relay.
--
-- await_write is the pause of an idle one: it sleeps, looks whether anything was
-- written, and sleeps again, up to n times. Each look is a statement of its own, and
-- so has a snapshot of its own. seen is the text of the one under which the relay
-- found nothing.
--
-- must_be ends the transaction that was to file rows and found another number of
-- them: the cursor would pass what was filed nowhere.

-- +goose Up
-- +goose StatementBegin
create function perdure.await_write(seen text, pause double precision, n int) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  slept text;
begin
  for i in 1..least(n, 1000) loop
    slept := pg_sleep(least(pause, 1))::text; -- an assignment: cheaper than a PERFORM
    exit when pg_current_snapshot()::text <> seen;
  end loop;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function perdure.must_be(wanted bigint, filed bigint, place text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if wanted is distinct from filed then
    raise exception 'of % rows to be filed to %, % were: nothing was moved', wanted, place, filed
      using errcode = 'data_exception', hint = 'This is a defect of Perdure: no row is lost, the relay waits. Please report it.';
  end if;
end $$;
-- +goose StatementEnd

-- +goose Down
drop function perdure.must_be(bigint, bigint, text);
drop function perdure.await_write(text, double precision, int);
