package relay

// Is this the database that the cursor and Kafka know?

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// identity is what makes the database this one and no other.
type identity struct {
	systemID   string
	database   uint32
	timeline   string // first 8 characters of a WAL file's name
	source     string
	generation int
	sequence   int64 // highest id handed out; 0 = none
}

// In recovery the second statement would fail; therefore there are two.
const (
	inRecovery = `select pg_is_in_recovery(), pg_backend_pid()`
	whoAmI     = `
select (select system_identifier::text from pg_control_system()),
  (select oid from pg_database where datname = current_database()),
  left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
  s.source, s.generation,
  (select case when is_called then last_value else last_value - 1 end from perdure.outbox_id_seq)
from perdure.source s`
)

const (
	mendReset = "find out what was restored or promoted, then run `perdure outbox reset`"
	mendURL   = "point PERDURE_POSTGRES_DIRECT_URL at the primary"
)

// identify asks the server who it is, and refuses a standby.
func (r *Relay) identify(ctx context.Context, conn *pgx.Conn) (identity, error) {
	var is identity
	var recovery bool
	var pid uint32
	if err := conn.QueryRow(ctx, inRecovery).Scan(&recovery, &pid); err != nil {
		return is, fmt.Errorf("postgres: ask whether it is a standby: %w", err)
	}
	if pid != conn.PgConn().PID() {
		return is, haltPooler("its backend is another one")
	}
	if recovery {
		return is, haltStandby()
	}
	return r.whoIs(ctx, conn)
}

func haltPooler(found string) *HaltError {
	return halt(HaltPooler, "point PERDURE_POSTGRES_DIRECT_URL past the pooler", "the connection goes through a transaction pooler: %s", found)
}

func haltStandby() *HaltError {
	return halt(HaltStandby, mendURL, "the server is a standby (in recovery)")
}

// whoIs asks a server that is no standby.
func (r *Relay) whoIs(ctx context.Context, db Querier) (identity, error) {
	var is identity
	err := db.QueryRow(ctx, whoAmI).
		Scan(&is.systemID, &is.database, &is.timeline, &is.source, &is.generation, &is.sequence)
	if err != nil {
		return is, fmt.Errorf("postgres: ask which database this is (has `perdure migrate up` been run?): %w", err)
	}
	if is.source != r.cfg.Source {
		return is, halt(HaltSource, "use PERDURE_SOURCE="+is.source+", or another database",
			"the database belongs to source %q, this relay is for %q", is.source, r.cfg.Source)
	}
	return is, nil
}

// checkCursor compares the cursor with the server that it is kept on.
func checkCursor(is identity, c cursor) error {
	switch {
	case c.systemID != is.systemID:
		return halt(HaltSystem, mendReset+"; after pg_upgrade nothing is lost: `perdure outbox reset --upgraded`",
			"the cursor is of cluster %s, this is cluster %s", c.systemID, is.systemID)
	case c.database != is.database:
		return halt(HaltDatabase, mendReset, "the cursor is of database oid %d, this is oid %d", c.database, is.database)
	case c.timeline != is.timeline:
		return halt(HaltTimeline, mendReset+": commits that the old primary had may be missing here",
			"the cursor is of timeline %s, the server is on %s", c.timeline, is.timeline)
	case c.ahead:
		return halt(HaltSnapshot, mendReset, "the cursor's snapshot %s is ahead of the server's transactions", c.prev)
	}
	return nil
}

// checkControl compares what Kafka has with the database. known is nil where
// this source was never relayed. high is the highest id that this process itself
// saw acknowledged.
func checkControl(is identity, known *relayed, high int64) error {
	const lost = "%s has ids up to %d, the sequence stands at %d: commits were lost, their ids would be used again"
	if high > is.sequence {
		return halt(HaltSequence, mendReset, lost, "Kafka (as this process saw)", high, is.sequence)
	}
	if known == nil {
		return nil
	}
	switch {
	case known.Seq > is.sequence:
		return halt(HaltSequence, mendReset, lost, "Kafka", known.Seq, is.sequence)
	case known.Generation > is.generation:
		return halt(HaltGeneration, mendReset,
			"Kafka knows generation %d of source %s, the database has %d: it is from before a reset",
			known.Generation, is.source, is.generation)
	case known.Generation == is.generation && known.Database != 0 && known.SystemID == is.systemID && known.Database != is.database:
		// A database dropped and made anew has no cursor that could tell.
		return halt(HaltSource, "give each database its own PERDURE_SOURCE; if this one replaces the other, run `perdure outbox reset`",
			"source %s was relayed from the database with oid %d, this is oid %d of the same cluster", is.source, known.Database, is.database)
	case known.Generation == is.generation && known.SystemID != is.systemID:
		// A reset raises the generation: only then may the cluster be another.
		return halt(HaltSource, "give each database its own PERDURE_SOURCE; if this one replaces the other, run `perdure outbox reset`",
			"source %s was relayed from cluster %s, this is cluster %s", is.source, known.SystemID, is.systemID)
	}
	return nil
}
