-- Tasks a UTC day that each API token's name has been given to enqueue: what its
-- quota is counted by, the same for all dispatchers and over their restarts.

-- +goose Up
create table perdure.quotas (
  day       date not null,           -- UTC
  principal text not null,           -- name of the token
  reserved  bigint not null,         -- given out to dispatchers, less what they gave back; never more than the quota
  granted   bigint not null,         -- by the last reservation, which reads it from its own row
  primary key (day, principal)
);

-- +goose Down
drop table perdure.quotas;
