-- First pages over ten million letters, by key, by queue, and by the text of an
-- error; and failure groups that people joined.

-- +goose Up
create index dead_letters_key on perdure.dead_letters (key, died_at) where key is not null;
create index dead_letters_queue on perdure.dead_letters (queue, died_at);

-- What the letters of a cause say, without what differs from letter to letter.
create table perdure.group_texts (
  fingerprint text not null, -- the cause's own, also where its group was joined to another
  text        text not null, -- error class and message, as dlq.Normalize leaves them
  primary key (fingerprint, text)
);
-- A cause that people joined to another: its letters, also those to come, are the
-- other's. A chain ends at the one that joins none; there is no ring.
create table perdure.group_aliases (
  fingerprint text primary key,
  into_group  text,                           -- null: the join was taken back, its letters are on their way
  settled     boolean not null default false, -- every letter is where it belongs
  who         text not null,
  why         text not null default '',
  at          timestamptz not null default clock_timestamp(),
  check (fingerprint <> into_group)
);
create index group_aliases_into on perdure.group_aliases (into_group);
alter table perdure.dead_letters add column joined_from text; -- its cause's own fingerprint, where its group was joined to another
create index dead_letters_joined on perdure.dead_letters (joined_from) where joined_from is not null;
-- +goose StatementBegin
create function perdure.group_of(fp text) returns text language sql stable as $$
  with recursive up(fingerprint, depth) as (
    select fp, 0
    union all
    select a.into_group, up.depth + 1 from up join perdure.group_aliases a on a.fingerprint = up.fingerprint
    where a.into_group is not null and up.depth < 100)
  select fingerprint from up order by depth desc limit 1
$$;
-- +goose StatementEnd

-- +goose Down
update perdure.dead_letters set fingerprint = joined_from where joined_from is not null;
drop function perdure.group_of(text);
drop index perdure.dead_letters_joined;
alter table perdure.dead_letters drop column joined_from;
drop table perdure.group_aliases;
drop table perdure.group_texts;
drop index perdure.dead_letters_queue;
drop index perdure.dead_letters_key;
