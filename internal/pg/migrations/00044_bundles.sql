-- Bundles (docs/decisions/0230): one row of the outbox may stand for several tasks of
-- one kind whose ids follow each other. A page of the table then holds as many tasks as
-- fit it, and what a row costs (two index entries, a tuple's head, twelve columns) is
-- paid once for all of them.

-- +goose Up
alter table perdure.outbox
  add column ends int[],   -- null: the row is one task; else where in payload each task's part ends, the row's id is the first's
  add column keys text[],  -- of a bundle's tasks; null: none of them has a key
  add constraint outbox_bundle check (ends is null or (
    array_ndims(ends) = 1 and array_lower(ends, 1) = 1 and cardinality(ends) between 2 and 64 and ends[cardinality(ends)] = octet_length(payload)
    and (keys is null or cardinality(keys) = cardinality(ends))
    and (id % 1000000) + cardinality(ends) <= 1000000  -- within one partition
    and key is null and task_id is null and run_at is null and epoch = 0) is true) not valid;

-- A row of up to a page stays in its page: without this the server would compress
-- what is larger than a quarter of one, and put it elsewhere in parts.
-- +goose StatementBegin
do $$
declare leaf regclass;
begin
  for leaf in select inhrelid::regclass from pg_inherits where inhparent = 'perdure.outbox'::regclass loop
    execute format('alter table %s set (toast_tuple_target = 8160)', leaf);
  end loop;
end $$;
-- +goose StatementEnd

-- The outbox task by task. Whoever looks for one id says where its row can be, for no
-- index has the others of a bundle: where id = $1 and row_id > $1 - 64 and row_id <= $1.
create view perdure.outbox_tasks as
select o.id + t.n as id, o.id as row_id, o.generation, o.xid, o.epoch, o.created_at, o.run_at, o.deadline, o.kind, o.queue,
  case when o.ends is null then o.key else o.keys[t.n + 1] end as key, o.task_id, o.content_type, o.headers,
  case when o.ends is null then o.payload
    else substr(o.payload, coalesce(o.ends[t.n], 0) + 1, o.ends[t.n + 1] - coalesce(o.ends[t.n], 0)) end as payload,
  o.checked
from perdure.outbox o, lateral generate_series(0, coalesce(cardinality(o.ends), 1) - 1) as t(n);

-- A relay of an older release would send a bundle as one task and lose the others. So
-- nobody writes bundles until a relay that knows them has had the lease, and from then
-- on no other can take it.
alter table perdure.source add column bundles boolean not null default true;
update perdure.source set bundles = false where exists (select from perdure.relay_lease);
alter table perdure.relay_lease add column knows_bundles bigint; -- the fence of the last taking; null: by a relay that does not
-- +goose StatementBegin
create function perdure.refuse_older_relay() returns trigger language plpgsql as $$
begin
  raise exception 'this relay is of an older release, and would lose tasks of this outbox (it has bundles): start the current release'
    using errcode = 'object_not_in_prerequisite_state';
end $$;
-- +goose StatementEnd
-- A relay takes the lease by one upsert, whose row passes here also where it is there already.
create trigger relay_lease_taken before insert on perdure.relay_lease
  for each row when (new.knows_bundles is distinct from new.fence) execute function perdure.refuse_older_relay();

-- +goose Down
-- Only where no bundle is left: the columns are all that tells its tasks apart.
-- +goose StatementBegin
do $$
begin
  if exists (select from perdure.outbox where ends is not null) then
    raise exception 'the outbox has rows that stand for several tasks: the schema cannot go back before PERDURE_HISTORY has passed over them';
  end if;
end $$;
-- +goose StatementEnd
drop trigger relay_lease_taken on perdure.relay_lease;
drop function perdure.refuse_older_relay();
alter table perdure.relay_lease drop column knows_bundles;
alter table perdure.source drop column bundles;
drop view perdure.outbox_tasks;
alter table perdure.outbox drop constraint outbox_bundle, drop column keys, drop column ends;
