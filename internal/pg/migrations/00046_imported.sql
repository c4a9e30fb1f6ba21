-- Other systems' dead letters that were sent back (docs/decisions/0235): which, and
-- where to. The letters themselves stay in their topic.

-- +goose Up
create table perdure.imported (
  letter       text primary key,       -- <cluster>/<topic>/<topic_id>/<partition>/<offset>
  cluster      text not null,          -- Kafka's id of itself; '' = it does not tell
  topic        text not null,          -- the dead-letter topic
  topic_id     text not null,          -- one that is made anew has other letters at the same offsets; '' = an old broker
  partition    int not null,
  "offset"     bigint not null,
  state        text not null check (state in ('sending', 'sent', 'unknown')), -- no row: it was not sent
  import       text not null,          -- the run, as in the audit's column replay and in the header of what was sent
  fingerprint  text not null,
  to_topic     text not null,
  to_topic_id  text not null,          -- one that is made anew holds nothing of what was sent; '' = an old broker
  to_partition int not null,
  to_after     bigint not null,        -- where that partition ended before: what was sent lies there or behind
  to_offset    bigint,                 -- where it lies; null = not known
  at           timestamptz not null default clock_timestamp() -- of the state
);
create index imported_in_doubt on perdure.imported (cluster, topic, topic_id) where state <> 'sent';

-- +goose Down
drop table perdure.imported;
