-- Replays and policies ask which breakers the workers told of a moment ago. In an
-- outage there are millions of events, and a handful of these.

-- +goose Up
create index events_breakers on perdure.events (at) where type = 'waiting' and data ->> 'reason' = 'breaker' or type = 'breaker_closed';

-- +goose Down
drop index perdure.events_breakers;
