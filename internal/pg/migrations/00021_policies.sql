-- What is known of the catalog's replay policies beside the catalog: who works
-- on one, what it did, whether it is switched off.

-- +goose Up
create table perdure.policies (
  policy     text primary key,
  enabled    boolean not null default true,
  note       text not null default '',      -- why it is switched off, or what it waits for
  strikes    int not null default 0,        -- acts in a row that made nothing better
  replay     text,                          -- its last replay; null: none yet
  judged     boolean not null default true, -- that replay's end was looked at
  total      bigint not null default 0,     -- letters that it acted on, ever
  acts       bigint not null default 0,
  acted_at   timestamptz,
  told       text not null default '',      -- what its last dry run or webhook said, so that it says it once
  lease      timestamptz,                   -- who looks at it now, on this database's clock
  changed_at timestamptz not null default clock_timestamp()
);
-- How many letters a policy acted on, by minute: what its limit per hour is held to.
create table perdure.policy_minutes (
  policy  text not null references perdure.policies on delete cascade,
  minute  timestamptz not null,
  letters bigint not null,
  primary key (policy, minute)
);
create index dead_letters_open_groups on perdure.dead_letters (kind, fingerprint, died_at) where state = 'open';

-- +goose Down
drop index perdure.dead_letters_open_groups;
drop table perdure.policy_minutes;
drop table perdure.policies;
