-- From where an act came: the address of whoever asked for it over HTTP, where it is
-- known; else the database's client, as before.

-- +goose Up
-- +goose StatementBegin
create function perdure.audit_origin(caller text) returns text language sql stable as $$
  select coalesce(nullif(caller, ''), host(inet_client_addr()), 'local') || ' ' || coalesce(current_setting('application_name', true), '')
$$;
-- +goose StatementEnd

-- +goose Down
drop function perdure.audit_origin(text);
