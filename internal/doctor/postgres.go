package doctor

// Postgres: is what is committed on disk, and is this the right database?

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/pg"
)

// maxSkew is how far two clocks may be apart: beyond it a worker is not ready.
const maxSkew = time.Second

func postgres(ctx context.Context, p Patient, r *report) {
	url := p.Config.PostgresDirectURL
	if url == "" {
		url = p.Config.PostgresURL
	}
	if url == "" {
		r.fail("PERDURE_POSTGRES_URL is not set", "the outbox lives there", "set it, or start `perdure up`")
		return
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		r.fail("cannot connect: "+err.Error(), "nothing is accepted and nothing is relayed",
			"start it, and check PERDURE_POSTGRES_URL, the password and pg_hba.conf")
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read from

	var (
		number                          int
		version, fsync, sync, fullPages string
		replica                         bool
		now                             time.Time
	)
	asked := time.Now()
	err = conn.QueryRow(ctx, `select current_setting('server_version_num')::int, current_setting('server_version'),
		current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
		pg_is_in_recovery(), clock_timestamp()`).
		Scan(&number, &version, &fsync, &sync, &fullPages, &replica, &now)
	if err != nil {
		r.fail("cannot read its settings: "+err.Error(), "", "check the role's rights")
		return
	}
	skew(r, "Postgres", asked, now, time.Now())
	if number < 130000 {
		r.fail("version "+version, "pg_current_xact_id and snapshots as 64-bit values came with 13", "upgrade to 13 or newer")
	} else {
		r.ok("version " + version)
	}
	if replica {
		r.fail("this is a standby", "a relay on a standby could publish what a failover takes back", "name the primary in PERDURE_POSTGRES_DIRECT_URL")
	}
	for _, s := range []struct{ name, value string }{{"fsync", fsync}, {"full_page_writes", fullPages}} {
		if s.value != "on" {
			r.fail(s.name+" is "+s.value, "a power cut loses accepted tasks, and can corrupt the rest", "set "+s.name+" = on and restart")
		} else {
			r.ok(s.name + " is on")
		}
	}
	switch sync {
	case "off":
		r.warn("synchronous_commit is off", "an answer 202 can be given for a task that a crash takes back",
			"alter database … set synchronous_commit = on")
	default:
		r.ok("synchronous_commit is " + sync)
	}
	schema(ctx, conn, p, r)
}

// schema compares the tables with this binary and with PERDURE_SOURCE.
func schema(ctx context.Context, conn *pgx.Conn, p Patient, r *report) {
	have, err := pg.Version(ctx, conn)
	switch {
	case err != nil:
		r.fail("cannot read the schema's version: "+err.Error(), "", "check the role's rights on schema perdure")
		return
	case have == 0:
		r.fail("schema perdure is not there", "no task can be accepted", "perdure migrate up")
		return
	case have < pg.Latest():
		r.fail(fmt.Sprintf("schema is at %d, this binary needs %d", have, pg.Latest()), "roles refuse to start", "perdure migrate up")
		return
	}
	r.ok(fmt.Sprintf("migrations are current (%d)", have))
	var source string
	if err := conn.QueryRow(ctx, `select source from perdure.source`).Scan(&source); err != nil {
		r.fail("perdure.source cannot be read: "+err.Error(), "task ids carry it", "perdure migrate up")
	} else if source != p.Config.Source {
		r.fail(fmt.Sprintf("this database is source %q, PERDURE_SOURCE says %q", source, p.Config.Source),
			"two sources in one outbox would give two tasks one id", "set PERDURE_SOURCE="+source+", or use another database")
	} else {
		r.ok("source is " + source)
	}
	var oldest time.Duration
	err = conn.QueryRow(ctx, `select coalesce(clock_timestamp() - min(prepared), interval '0') from pg_prepared_xacts where database = current_database()`).Scan(&oldest)
	if err == nil && oldest > time.Hour {
		r.warn(fmt.Sprintf("a prepared transaction is %s old", oldest.Round(time.Minute)),
			"its tasks are neither accepted nor refused, and vacuum stands still", "select * from pg_prepared_xacts, then COMMIT or ROLLBACK PREPARED")
	}
}

// skew compares a server's clock with ours, asked between two moments.
func skew(r *report, who string, before, theirs, after time.Time) {
	var off time.Duration
	switch {
	case theirs.Before(before):
		off = before.Sub(theirs)
	case theirs.After(after):
		off = theirs.Sub(after)
	}
	if off > maxSkew {
		r.warn(fmt.Sprintf("the clocks of this host and %s differ by %s", who, off.Round(time.Millisecond)),
			"deadlines and run_at move by as much; no claim depends on it", "run an NTP client on both")
		return
	}
	r.ok("the clocks of this host and " + who + " agree within a second")
}
