-- The pause of an idle relay: it sleeps, looks whether anything was written, and
-- sleeps again, up to n times.
--
-- Each look is a statement of its own, and so has a snapshot of its own. seen is the
-- text of the one under which the relay found nothing.

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

-- +goose Down
drop function perdure.await_write(text, double precision, int);
