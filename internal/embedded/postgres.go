// Embedded Postgres: what a caller sees of it.

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgresUser is the superuser and the first database of an embedded server.
const postgresUser = "perdure"

// PostgresConfig says which Postgres to run, where, and with which settings.
type PostgresConfig struct {
	// Dir holds the cluster, its password and its log. "" makes a temporary
	// one that Close removes. As root, the cluster itself is placed under
	// /var/lib/perdure if the unprivileged server could not reach Dir.
	Dir string
	// Port on loopback; 0 takes any free one, a new one at each Restart.
	Port int
	// Version is the major version, "15" to "18". "" takes that of the data
	// in Dir, else the newest that the machine has, else the library's newest.
	Version string
	// Settings are server parameters, over this package's own.
	Settings map[string]string
	// Log gets one line per start and stop, nil is silent. The server's own
	// lines go to a file in Dir.
	Log *slog.Logger
}

// Postgres is an embedded server. Its methods may be called concurrently.
type Postgres struct {
	cfg      PostgresConfig
	home     *postgresHome
	bin      postgresBinaries
	owner    *serverUser // nil: run as this process's own user
	password string

	mu   sync.Mutex // held over a whole start, stop, kill or restart
	port int
	proc *postmaster // nil while stopped
}

// StartPostgres starts a server on the directory and returns when it accepts
// queries: it finds binaries, makes the cluster if there is none, stops what a
// killed predecessor left running, and starts the server as an unprivileged
// user if this process is root. Durability is Postgres's default: fsync on.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (_ *Postgres, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	owner, err := unprivilegedUser()
	if err != nil {
		return nil, err
	}
	home, err := openPostgresHome(cfg.Dir, owner)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, home.discard())
		}
	}()
	if owner, err = home.ownerOfData(owner); err != nil {
		return nil, err
	}
	version, err := home.wantedVersion(cfg.Version)
	if err != nil {
		return nil, err
	}
	bin, err := findBinaries(ctx, version, owner, cfg.Log)
	if err != nil {
		return nil, err
	}
	p := &Postgres{cfg: cfg, home: home, bin: bin, owner: owner}
	if p.password, err = home.ensureCluster(ctx, bin, owner); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err = p.start(ctx); err != nil {
		return nil, err
	}
	if err = p.ensureDatabase(ctx); err != nil {
		return nil, errors.Join(err, p.shutdown())
	}
	return p, nil
}

// URL is a connection string to the server's own database, password included.
func (p *Postgres) URL() string { return p.URLFor(postgresUser) }

// URLFor is a connection string to a database of the server.
func (p *Postgres) URLFor(database string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.urlFor(database)
}

func (p *Postgres) urlFor(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(postgresUser, p.password),
		Host:     net.JoinHostPort(loopback, strconv.Itoa(p.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID is the postmaster's process id, 0 while the server is stopped.
func (p *Postgres) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.pid
}

// Version is the server's version as its binary tells it ("15.14").
func (p *Postgres) Version() string { return p.bin.version }

// Source says where the binaries come from, for a banner.
func (p *Postgres) Source() string { return p.bin.source }

// Dir is where the cluster really is.
func (p *Postgres) Dir() string { return p.home.data }

// Done is closed when the running server has ended, for whatever reason.
func (p *Postgres) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return p.proc.done
}

// Kill ends the postmaster and its children with SIGKILL, as a crash does, and
// returns when they are gone. It is meant for tests; [Postgres.Restart] follows.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return nil
	}
	proc := p.proc
	p.proc = nil
	if err := proc.kill(); err != nil {
		return fmt.Errorf("embedded postgres: kill %d: %w", proc.pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(proc.wait(ctx), waitGone(ctx, p.home.data))
}

// Restart starts the server again on the same port (any free one if the
// configured port is 0 and the last one is taken), after a fast shutdown if it
// still runs.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.shutdown(); err != nil {
		return err
	}
	return p.start(ctx)
}

// Close shuts the server down fast: clients are disconnected, what they
// committed is on disk. A temporary directory is removed. A second Close does
// nothing.
func (p *Postgres) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.shutdown(), p.home.discard())
}

var _ io.Closer = (*Postgres)(nil)

// shutdown asks for a fast shutdown, then an immediate one, then kills.
func (p *Postgres) shutdown() error {
	if p.proc == nil {
		return nil
	}
	proc := p.proc
	p.proc = nil
	began := time.Now()
	if err := stopPostmaster(proc.pid, p.home.data, proc.endsWithin); err != nil {
		return err
	}
	p.cfg.Log.Info("embedded postgres stopped", "pid", proc.pid, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// ensureDatabase creates the first database where it is missing: also after a
// kill between initdb and this.
func (p *Postgres) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.urlFor("postgres"))
	if err != nil {
		return fmt.Errorf("embedded postgres: connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the work is committed or has failed
	var there bool
	const exists = `select exists (select from pg_database where datname = $1)`
	if err := conn.QueryRow(ctx, exists, postgresUser).Scan(&there); err != nil {
		return fmt.Errorf("embedded postgres: look for database %s: %w", postgresUser, err)
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, `create database perdure`); err != nil {
		return fmt.Errorf("embedded postgres: create database %s: %w", postgresUser, err)
	}
	return nil
}

// tail is the end of the server's log, for an error that a person reads.
func (p *Postgres) tail() string {
	const last = 2048
	b, err := os.ReadFile(p.home.log)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	if len(b) > last {
		b = b[len(b)-last:]
	}
	return string(b)
}
