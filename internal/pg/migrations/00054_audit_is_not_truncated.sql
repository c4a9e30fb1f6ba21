-- A truncate fires no trigger of a row: the whole audit could be emptied in one word.

-- +goose Up
create trigger audit_keep_all before truncate on perdure.audit for each statement execute function perdure.audit_keep();

-- +goose Down
drop trigger audit_keep_all on perdure.audit;
