package dlq

// Groups that people join: the letters of one cause, also those to come, are
// another's until that is taken back.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
)

// Errors of Merge and Unmerge.
var (
	ErrRing      = errors.New("the groups would be each other's")
	ErrMerged    = errors.New("the group is merged into another already")
	ErrNotMerged = errors.New("the group is not merged into another")
)

// moveChunk bounds one UPDATE.
const moveChunk = 2000

// Every writer of aliases waits for the letters that are being filed or moved, by
// aliases that were read before, and those to come wait for it: after it no letter is
// filed as before. No lock of the table: that would wait for a running pg_dump too, and
// meanwhile stop whoever reads a group's name.
const (
	lockAliases  = `select pg_advisory_xact_lock(hashtextextended('perdure.group_aliases', 0))`
	shareAliases = `select pg_advisory_xact_lock_shared(hashtextextended('perdure.group_aliases', 0))`
)

// Merge makes the letters of a group, also those to come, the letters of into, in
// the name of who. What people say of into stays; what they said of the group comes
// back with Unmerge. Letters keep their ids and plans their letters. It returns how
// many letters moved now; what an error leaves behind, an index moves later.
func (s *Letters) Merge(ctx context.Context, group, into, who, why string) (moved int64, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if err := beginJoin(ctx, tx); err != nil {
			return err
		}
		var known, taken bool
		var root string
		if err := tx.QueryRow(ctx, `select
  exists (select from perdure.letter_states where fingerprint = $1) and exists (select from perdure.letter_states where fingerprint = perdure.group_of($2)),
  exists (select from perdure.group_aliases where fingerprint = $1 and into_group is not null), perdure.group_of($2)`, group, into).Scan(&known, &taken, &root); err != nil {
			return err
		}
		switch {
		case root == group:
			return ErrRing
		case taken:
			return ErrMerged
		case !known:
			return ErrNoGroup
		}
		if _, err := tx.Exec(ctx, `insert into perdure.group_aliases (fingerprint, into_group, who, why) values ($1, $2, $3, $4)
on conflict (fingerprint) do update set into_group = excluded.into_group, settled = false, who = excluded.who, why = excluded.why, at = clock_timestamp()`, group, root, who, why); err != nil {
			return err
		}
		return auditJoin(ctx, tx, who, "group.merge", why, group, root)
	})
	if err != nil {
		return 0, joinError("merge", group, err)
	}
	return settleJoins(ctx, s.db)
}

// Unmerge takes a Merge of the group back: its own letters are its own again, and
// those of groups that were merged into it.
func (s *Letters) Unmerge(ctx context.Context, group, who, why string) (moved int64, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if err := beginJoin(ctx, tx); err != nil {
			return err
		}
		var into string
		err := tx.QueryRow(ctx, `update perdure.group_aliases a set into_group = null, settled = false, who = $2, why = $3, at = clock_timestamp()
from (select fingerprint, into_group from perdure.group_aliases where fingerprint = $1 and into_group is not null) o where a.fingerprint = o.fingerprint returning o.into_group`,
			group, who, why).Scan(&into)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotMerged
		}
		if err != nil {
			return err
		}
		return auditJoin(ctx, tx, who, "group.unmerge", why, group, into)
	})
	if err != nil {
		return 0, joinError("unmerge", group, err)
	}
	return settleJoins(ctx, s.db)
}

func beginJoin(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `set local lock_timeout = '20s'`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, lockAliases)
	return err
}

func auditJoin(ctx context.Context, tx pgx.Tx, who, what, why, group, into string) error {
	_, err := tx.Exec(ctx, `insert into perdure.audit (who, what, why, details, origin)
values ($1, $2, $3, jsonb_build_object('group', $4::text, 'into', $5::text), perdure.audit_origin($6))`, who, what, why, group, into, api.Caller(ctx))
	return err
}

func joinError(what, group string, err error) error {
	for _, known := range []error{ErrRing, ErrMerged, ErrNotMerged, ErrNoGroup} {
		if errors.Is(err, known) {
			return known
		}
	}
	return fmt.Errorf("%s group %s: %w", what, group, err)
}

// The letters whose own cause is $1, or is merged into it by steps, where they are
// not where they belong.
const moveJoined = `
with recursive own(fingerprint) as (
  select $1::text union select a.fingerprint from own join perdure.group_aliases a on a.into_group = own.fingerprint),
l as materialized (
  select letter, coalesce(joined_from, d.fingerprint) as own, perdure.group_of(coalesce(joined_from, d.fingerprint)) as root from perdure.letter_states d
  where letter in (
    select c.letter from own cross join lateral (
      select letter from perdure.letter_states where fingerprint = own.fingerprint and joined_from is null and own.fingerprint <> perdure.group_of(own.fingerprint)
      union all
      select letter from perdure.letter_states where joined_from = own.fingerprint and fingerprint <> perdure.group_of(own.fingerprint)) c limit $2)
  order by letter for update)
update perdure.letter_states d set fingerprint = l.root, joined_from = case when l.root <> l.own then l.own end
from l where d.letter = l.letter`

// Whoever does not hold the lock of aliases, as a process of an older version during an
// upgrade, files letters by aliases that somebody changes meanwhile: those of a joined
// group under its own name, or under one that it is not joined to any more. Groups of
// which one is found are settled again. Of those that were joined once, one letter each
// is looked at.
const unsettleJoins = `
with recursive stray(fingerprint) as (
  select a.fingerprint from perdure.group_aliases a
  where a.settled and a.into_group is not null and exists (select from perdure.letter_states d where d.fingerprint = a.fingerprint)),
own(fingerprint) as (
  (select joined_from from perdure.letter_states where joined_from is not null order by joined_from limit 1)
  union all
  select (select d.joined_from from perdure.letter_states d where d.joined_from > own.fingerprint order by d.joined_from limit 1) from own where own.fingerprint is not null),
u as (update perdure.group_aliases a set settled = false from stray where a.fingerprint = stray.fingerprint)
insert into perdure.group_aliases (fingerprint, into_group, settled, who, why)
select o.fingerprint, null, false, 'perdure', 'its letters were filed by an older version' from own o
where o.fingerprint is not null and not exists (select from perdure.group_aliases a where a.fingerprint = o.fingerprint)
on conflict do nothing`

// settleStrays is settleJoins of letters that were filed under a wrong name, too.
func settleStrays(ctx context.Context, db *pgxpool.Pool) error {
	if _, err := db.Exec(ctx, unsettleJoins); err != nil {
		return fmt.Errorf("look for letters of merged groups: %w", err)
	}
	_, err := settleJoins(ctx, db)
	return err
}

// settleJoins moves letters to where they belong, some at a time, and is done again
// by whoever comes next if it is broken off.
func settleJoins(ctx context.Context, db *pgxpool.Pool) (moved int64, err error) {
	rows, err := db.Query(ctx, `select fingerprint, at from perdure.group_aliases where not settled order by at, fingerprint`)
	if err != nil {
		return 0, fmt.Errorf("look for merged groups: %w", err)
	}
	type alias struct {
		Group string
		At    time.Time
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[alias])
	if err != nil {
		return 0, fmt.Errorf("look for merged groups: %w", err)
	}
	for _, a := range list {
		for {
			var n int64
			err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, shareAliases); err != nil {
					return err
				}
				tag, err := tx.Exec(ctx, moveJoined, a.Group, moveChunk)
				n = tag.RowsAffected()
				return err
			})
			if err != nil {
				return moved, fmt.Errorf("move the letters of group %s, which goes on by itself: %w", a.Group, err)
			}
			moved += n
			if n == 0 {
				break
			}
		}
		// Only as it was read: somebody may have changed it meanwhile.
		if _, err := db.Exec(ctx, `with gone as (delete from perdure.group_aliases where fingerprint = $1 and at = $2 and into_group is null)
update perdure.group_aliases set settled = true where fingerprint = $1 and at = $2 and into_group is not null`, a.Group, a.At); err != nil {
			return moved, fmt.Errorf("move the letters of group %s: %w", a.Group, err)
		}
	}
	return moved, nil
}
