-- The audit as a chain: each row holds the hash of the row before it, so that a
-- row that was changed, taken out or moved is found. The database itself links
-- rows, whoever writes them; places are without gaps, because the head is locked
-- until the writer commits.

-- +goose Up
alter table perdure.audit
  add column origin text not null default coalesce(host(inet_client_addr()), 'local') || ' ' || coalesce(current_setting('application_name', true), ''), -- from where
  add column place bigint,              -- in the chain, from 1
  add column prev  text,                -- hash of the row at place - 1; '' at 1
  add column hash  text;                -- hex SHA-256 over all other columns
create table perdure.audit_head (
  one        boolean primary key default true check (one),
  place      bigint not null default 0, -- of the last row
  hash       text not null default '',  -- of the last row
  from_place bigint not null default 0, -- the last row that was pruned
  from_hash  text not null default ''
);
insert into perdure.audit_head default values;

-- +goose StatementBegin
create function perdure.audit_hash(a perdure.audit) returns text language sql immutable parallel safe set timezone = 'UTC' as $$
  select encode(sha256(convert_to(jsonb_build_array(a.place, a.prev, a.n, (extract(epoch from a.at) * 1000000)::bigint, a.who, a.what, a.letter, a.replay,
    a.why, a.details, a.origin)::text, 'utf8')), 'hex')
$$;
create function perdure.audit_link() returns trigger language plpgsql as $$
declare h perdure.audit_head;
begin
  update perdure.audit_head set place = place + 1 returning * into h;
  new.place := h.place;
  new.prev := h.hash;
  new.hash := perdure.audit_hash(new);
  update perdure.audit_head set hash = new.hash;
  return new;
end $$;
create function perdure.audit_keep() returns trigger language plpgsql as $$
begin
  if current_setting('perdure.audit_prune', true) = 'on' and tg_op = 'DELETE' then
    return old;
  end if;
  raise exception 'perdure.audit is append-only' using errcode = 'PD403';
end $$;
-- What was written before the chain is linked in its order.
do $$
declare a perdure.audit; h text := ''; p bigint := 0;
begin
  for a in select * from perdure.audit order by n loop
    p := p + 1;
    a.place := p; a.prev := h; h := perdure.audit_hash(a);
    update perdure.audit set place = p, prev = a.prev, hash = h where n = a.n;
  end loop;
  update perdure.audit_head set place = p, hash = h;
end $$;
-- +goose StatementEnd
alter table perdure.audit alter column place set not null, alter column prev set not null, alter column hash set not null;
create unique index audit_place on perdure.audit (place);
create index audit_replay on perdure.audit (replay, place) where replay is not null;
create trigger audit_link before insert on perdure.audit for each row execute function perdure.audit_link();
create trigger audit_keep before update or delete on perdure.audit for each row execute function perdure.audit_keep();

-- +goose Down
drop trigger audit_keep on perdure.audit;
drop trigger audit_link on perdure.audit;
drop index perdure.audit_replay;
drop index perdure.audit_place;
drop function perdure.audit_keep();
drop function perdure.audit_link();
drop function perdure.audit_hash(perdure.audit);
drop table perdure.audit_head;
alter table perdure.audit drop column origin, drop column place, drop column prev, drop column hash;
