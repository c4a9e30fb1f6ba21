-- The whole first schema: catalog as applied, outbox, relay, keys, dead letters,
-- replays, events, audit. Functions that producers call stand in 00002.

-- +goose Up
create schema if not exists perdure;

-- Which database this is. One row; `perdure migrate up` writes it from PERDURE_SOURCE.
create table perdure.source (
  one        boolean primary key default true check (one),
  source     text not null,
  generation int  not null default 1
);

-- What `perdure catalog apply` wrote: enough for SQL to refuse bad tasks.
create table perdure.queues (
  queue      text primary key,
  settings   jsonb not null,
  applied_at timestamptz not null default clock_timestamp()
);
create table perdure.kinds (
  kind          text primary key,
  queue         text not null references perdure.queues,
  ordered       boolean not null,
  effects       text not null,
  max_payload   int not null default 1048576,  -- bytes
  expires_after interval,                       -- null: never
  schema        jsonb,                          -- JSON Schema; null: any payload
  schema_uri    text,
  settings      jsonb not null,
  catalog       text not null,                  -- hash of the catalog that wrote this row
  applied_at    timestamptz not null default clock_timestamp()
);

-- The outbox: append-only; no UPDATE, no DELETE. Position = id, taken by
-- nextval inside the inserting transaction; xid only ever from its default.
create sequence perdure.outbox_id_seq as bigint cache 1;
create table perdure.outbox (
  id           bigint not null default nextval('perdure.outbox_id_seq'),
  generation   int not null default 1,
  xid          xid8 not null default pg_current_xact_id(),
  epoch        int not null default 0,
  created_at   timestamptz not null default clock_timestamp(),
  run_at       timestamptz,           -- not before; null: now
  deadline     timestamptz,           -- null: none
  kind         text not null,
  queue        text not null,
  key          text,                  -- null: none
  task_id      text,                  -- null: this row's own; a replay writes the full id
  content_type text not null default 'application/json',
  headers      jsonb,                 -- null: none; values are strings
  payload      bytea not null,
  checked      boolean not null default false, -- payload was held against its schema before; false: the relay does it
  primary key (id)
) partition by range (id);
create index outbox_xid_id on perdure.outbox (xid, id);
-- Catches rows beyond the last partition, so that a relay that was away for long
-- never makes a producer fail.
create table perdure.outbox_overflow partition of perdure.outbox default;
-- +goose StatementBegin
do $$
begin
  for i in 0..15 loop
    execute format('create table perdure.outbox_p%s partition of perdure.outbox for values from (%s) to (%s)',
      lpad(i::text, 10, '0'), i::bigint * 1000000, (i::bigint + 1) * 1000000);
  end loop;
end $$;
-- +goose StatementEnd

-- One active relay a source: the lease is on the database's clock. Taking it
-- raises the fence here and in relay_cursor, in one transaction.
create table perdure.relay_lease (
  shard text primary key,
  owner text not null,
  fence bigint not null,
  until timestamptz not null
);
create table perdure.relay_cursor (
  shard       text primary key,
  fence       bigint not null,
  prev        pg_snapshot not null,
  upto        pg_snapshot,             -- target of a window larger than a chunk; null: none
  at_id       bigint not null default 0,
  system_id   text not null,           -- of the cluster that these snapshots belong to
  database    oid not null,
  timeline    text not null,
  moved_at    timestamptz not null default clock_timestamp()
);

-- One row a relayed batch, written in the cursor's transaction. hops says for
-- each id its topic, partition and offset, delta-coded by package relaylog.
create table perdure.relay_log (
  batch      bigint generated always as identity primary key,
  shard      text not null,
  relayed_at timestamptz not null default clock_timestamp(),
  first_id   bigint not null,
  last_id    bigint not null,
  tasks      int not null,             -- rows that were new tasks (task_id is null)
  replays    int not null,             -- rows that were replays
  hops       bytea not null
);
-- Ranges overlap (late commits, scheduled rows): a B-tree would read every later
-- batch to find an old id.
create index relay_log_ids on perdure.relay_log using gist (int8range(first_id, last_id, '[]'));
create index relay_log_at on perdure.relay_log (relayed_at);

-- Rows that passed through the outbox but are not due, or whose topic is broken.
-- Both keep the row as it was; the relay deletes it with the batch that sends it.
create table perdure.scheduled (
  id  bigint primary key,
  due timestamptz not null,
  generation int not null, epoch int not null, created_at timestamptz not null, deadline timestamptz,
  kind text not null, queue text not null, key text, task_id text,
  content_type text not null, headers jsonb, payload bytea not null, checked boolean not null
);
create index scheduled_due on perdure.scheduled (due, id);
create table perdure.parked (
  id  bigint primary key,
  parked_at timestamptz not null default clock_timestamp(),
  why text not null,
  generation int not null, epoch int not null, created_at timestamptz not null, deadline timestamptz,
  kind text not null, queue text not null, key text, task_id text,
  content_type text not null, headers jsonb, payload bytea not null, checked boolean not null
);
create index parked_queue on perdure.parked (queue, id);

-- Idempotency keys (unique keys later): a partitioned outbox cannot hold uniqueness.
create table perdure.unique_keys (
  scope      text not null,            -- producer, kind, queue, joined by U+001F
  key        text not null,
  seq        bigint not null,
  generation int not null,
  hash       bytea not null,           -- sha256 of the stored payload
  scheduled  boolean not null default false, -- the first answer's state was scheduled, not queued
  expires    timestamptz not null,
  primary key (scope, key)
);
create index unique_keys_expires on perdure.unique_keys (expires);

-- Index of the dead-letter topics. letter = '<task id>@<epoch>', or
-- 'kafka:<topic>:<partition>:<offset>' of the record, where no id could be read
-- or the record as a whole could not (task_id is only what it claims to be then).
create table perdure.dead_letters (
  letter           text primary key,
  task_id          text,
  epoch            int not null default 0,
  kind             text,
  queue            text not null,
  key              text,
  state            text not null default 'open',
  reason           text not null,
  error_class      text not null default '',
  message          text not null default '',
  fingerprint      text not null,
  attempts         jsonb not null default '[]',
  run              bigint not null default 0,
  release          text not null default '',
  catalog          text not null default '',
  record_key       bytea,
  headers          jsonb,              -- [[name, base64 value], …] of the original record, unchanged
  payload          bytea,
  content_type     text not null default '',
  deadline         timestamptz,
  origin_topic     text not null,
  origin_partition int not null,
  origin_offset    bigint not null,
  dlq_topic        text not null,
  dlq_partition    int not null,
  dlq_offset       bigint not null,
  died_at          timestamptz not null,
  indexed_at       timestamptz not null default clock_timestamp(),
  changed_at       timestamptz not null default clock_timestamp(),
  replays          int not null default 0,
  resolved_by      text not null default '', -- completed | replay | discard …; '' while unresolved
  cut              boolean not null default false -- the original was too large to be kept whole
);
create index dead_letters_fp on perdure.dead_letters (fingerprint, state, died_at);
create index dead_letters_task on perdure.dead_letters (task_id, epoch);
create index dead_letters_state on perdure.dead_letters (state, died_at);
create index dead_letters_kind on perdure.dead_letters (kind, died_at);

-- Tasks that died and were completed after all, from the resolved records of the
-- dead-letter topics: a letter of theirs that is produced again stays resolved.
create table perdure.resolutions (
  task_id text primary key,
  epoch   int not null,                -- the epoch that completed
  at      timestamptz not null
);
create index resolutions_at on perdure.resolutions (at);

-- A replay is a managed job over letters that were frozen when it was planned.
create table perdure.replays (
  replay     text primary key,
  state      text not null,            -- planned | running | done | cancelled
  selector   jsonb not null,
  dry_run    boolean not null default false,
  who        text not null,
  why        text not null default '',
  owner      text not null default '', -- process that runs it now
  lease      timestamptz,              -- until when, on this database's clock
  created_at timestamptz not null default clock_timestamp(),
  changed_at timestamptz not null default clock_timestamp()
);
create table perdure.replay_letters (
  replay  text not null references perdure.replays on delete cascade,
  letter  text not null,
  n       bigint not null,             -- order of work
  result  text not null default '',    -- '' | replayed | would_replay (dry run) | refused
  detail  text not null default '',
  seq     bigint,                      -- outbox id of the replay
  done_at timestamptz,
  primary key (replay, n)
);
create index replay_letters_letter on perdure.replay_letters (letter);

-- What happened to tasks off the happy path, from events.<queue>.
create table perdure.events (
  topic       text not null,
  partition   int not null,
  "offset"    bigint not null,
  task_id     text not null,
  epoch       int not null,
  attempt     int not null,
  run         bigint not null,
  type        text not null,
  at          timestamptz not null,
  worker      text not null default '',
  error_class text not null default '',
  message     text not null default '',
  data        jsonb,
  primary key (topic, partition, "offset")
);
create index events_task on perdure.events (task_id, at);
create index events_at on perdure.events (at);

-- Who did what. Append-only.
create table perdure.audit (
  n       bigint generated always as identity primary key,
  at      timestamptz not null default clock_timestamp(),
  who     text not null,
  what    text not null,
  letter  text,
  replay  text,
  why     text not null default '',
  details jsonb not null default '{}'
);

-- Exactly-once effects: (task, step) in the user's own transaction.
create table perdure.inbox (
  task_id text not null,
  step    text not null,
  run     bigint not null,
  at      timestamptz not null default clock_timestamp(),
  primary key (task_id, step)
);

-- +goose Down
-- The schema stays, with the table of migrations.
-- +goose StatementBegin
do $$
declare t text;
begin
  for t in select format('%I.%I', schemaname, tablename) from pg_tables
            where schemaname = 'perdure' and tablename <> 'migrations' loop
    execute 'drop table if exists ' || t || ' cascade';
  end loop;
end $$;
-- +goose StatementEnd
drop sequence perdure.outbox_id_seq;
