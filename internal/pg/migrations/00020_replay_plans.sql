-- Replays as plans: hash-pinned letters, canary, rate and ramp, stop rules, and
-- what became of each letter that was replayed.

-- +goose Up
alter table perdure.replays
  add column spec         jsonb not null default '{}', -- canary, pace, stop rules, as asked and with defaults
  add column hash         text not null default '',    -- sha256 over the spec and the letters, in their order
  add column resume       text not null default '',    -- while paused: the state to come back to
  add column note         text not null default '',    -- the last word of a rule or a person: why it stopped, paused
  add column approval     text not null default '',    -- why another person must approve it; '' = nobody need
  add column approved_by  text not null default '',
  add column letters      bigint not null default 0,   -- frozen
  add column looked       bigint not null default 0,   -- planning: letters up to this n were judged
  add column replayed     bigint not null default 0,
  add column refused      bigint not null default 0,
  add column completed    bigint not null default 0,   -- outcomes of what was replayed
  add column died_again   bigint not null default 0,
  add column died_same    bigint not null default 0,   -- of died_again: with the fingerprint that it had
  add column other        bigint not null default 0,   -- cancelled, discarded
  add column tokens       double precision not null default 0, -- letters that the rate allows now; below 0: a debt
  add column paced_at     timestamptz,                 -- when tokens was counted, on this database's clock
  add column ramp_at      timestamptz,                 -- when the ramp began
  add column canary_at    timestamptz,                 -- when the last canary letter went
  add column due_at       timestamptz not null default clock_timestamp(), -- no replayer need look before
  add column taken_at     timestamptz;                 -- when a replayer last took it; null: none ever did
create index replays_work on perdure.replays (due_at, replay) where state in ('planning', 'canary', 'ramping', 'running');
create index replays_ended on perdure.replays (changed_at) where state in ('done', 'stopped', 'cancelled');

alter table perdure.replay_letters
  add column outcome     text not null default '',     -- '' | completed | died_again | cancelled | discarded
  add column fingerprint text not null default '',     -- of the new death
  add column outcome_at  timestamptz;
create index replay_letters_left on perdure.replay_letters (replay, n) where result = '';
create index replay_letters_refused on perdure.replay_letters (replay) where result = 'refused';
create index replay_letters_died on perdure.replay_letters (replay) where outcome = 'died_again';

-- Outcomes on their way from the index to their replay: written where a letter
-- is settled, counted and removed by a replayer, so that the two lock no row
-- of each other's.
create table perdure.replay_outcomes (
  replay      text not null references perdure.replays on delete cascade,
  n           bigint not null,
  outcome     text not null,
  fingerprint text not null default '',
  same        boolean not null default false, -- the new death has the old one's fingerprint
  at          timestamptz not null default clock_timestamp(),
  primary key (replay, n)
);

-- Counters of the replays that are there already; those that run go on as they were.
update perdure.replays r set letters = c.letters, replayed = c.replayed, refused = c.refused
from (select replay, count(*) as letters, count(*) filter (where result in ('replayed', 'would_replay')) as replayed,
  count(*) filter (where result = 'refused') as refused from perdure.replay_letters group by replay) c where c.replay = r.replay;

update perdure.replays set state = 'planning' where dry_run and state in ('planned', 'running');

-- +goose Down
update perdure.replays set state = 'running' where state in ('planning', 'canary', 'ramping');
update perdure.replays set state = 'planned' where state in ('approved', 'paused');
update perdure.replays set state = 'cancelled' where state = 'stopped';
drop table perdure.replay_outcomes;
drop index perdure.replay_letters_died;
drop index perdure.replay_letters_refused;
drop index perdure.replay_letters_left;
alter table perdure.replay_letters drop column outcome, drop column fingerprint, drop column outcome_at;
drop index perdure.replays_ended;
drop index perdure.replays_work;
alter table perdure.replays drop column spec, drop column hash, drop column resume, drop column note, drop column approval, drop column approved_by,
  drop column letters, drop column looked, drop column replayed, drop column refused, drop column completed, drop column died_again, drop column died_same,
  drop column other, drop column tokens, drop column paced_at, drop column ramp_at, drop column canary_at, drop column due_at, drop column taken_at;
