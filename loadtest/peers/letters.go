package main

// Dead letters: how fast they are indexed, how fast a page of ten million of them
// is there, how fast a replay is planned and goes.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/schemas"
)

type lettersBench struct {
	bench
	part     string
	letters  int    // in the large index
	database string // of the large index; it stays
	index    int    // letters of one run of indexing
	payload  int
	plan     int   // letters of a plan
	large    []int // letters of the plans whose memory is looked at
	rate     int
	seconds  int  // at that rate
	empty    bool // no indexing into the large index
}

// letterParts are the tables, each between markers of its own.
var letterParts = map[string]func(*lettersBench, context.Context, servers) (string, error){
	"fill":   (*lettersBench).runFill,
	"index":  (*lettersBench).runIndex,
	"large":  (*lettersBench).runLarge,
	"pages":  (*lettersBench).runPages,
	"rate":   (*lettersBench).runRate,
	"replay": (*lettersBench).runPlans,
}

func lettersCommand(ctx context.Context, args []string) error {
	var b lettersBench
	var large string
	fs := flag.NewFlagSet("letters", flag.ContinueOnError)
	b.flags(fs)
	fs.StringVar(&b.part, "part", "", "what to measure: "+strings.Join(slices.Sorted(maps.Keys(letterParts)), ", "))
	fs.IntVar(&b.letters, "letters", 10_000_000, "in the large index")
	fs.StringVar(&b.database, "database", "perdure_letters", "of the large index: filled where it is not there yet, left there, and changed by every part but pages")
	fs.IntVar(&b.index, "index", 200_000, "letters of a run of indexing")
	fs.IntVar(&b.payload, "payload", 1024, "bytes of a payload that is indexed")
	fs.IntVar(&b.plan, "plan", 100_000, "letters of a plan that is measured and replayed")
	fs.StringVar(&large, "large", "50000,500000", "letters of the plans whose memory is looked at")
	fs.IntVar(&b.rate, "rate", 1000, "letters a second where there is a limit")
	fs.IntVar(&b.seconds, "seconds", 20, "at that rate")
	fs.BoolVar(&b.empty, "empty", false, "index into empty databases alone, not into the large one")
	if err := parse(fs, args); err != nil {
		return err
	}
	for _, s := range strings.Split(large, ",") {
		var n int
		if _, err := fmt.Sscan(s, &n); err != nil || n < 1 {
			return &usageError{fmt.Errorf("large: %q is no number of letters", s)}
		}
		b.large = append(b.large, n)
	}
	if !regexp.MustCompile(`^[a-z_]+$`).MatchString(b.database) {
		return &usageError{errors.New("database: want a name of small letters")}
	}
	if b.letters < letterGroups || b.index < 1 || b.payload < 64 || b.plan < 1 || b.rate < 1 || b.seconds < 3 {
		return &usageError{fmt.Errorf("letters: want at least %d; payload: 64; seconds: 3", letterGroups)}
	}
	measure, ok := letterParts[b.part]
	if !ok {
		return &usageError{fmt.Errorf("part: there is no %q", b.part)}
	}
	return b.command(ctx, "letters-"+b.part, func(ctx context.Context, srv servers) (string, error) { return measure(&b, ctx, srv) })
}

// filled opens the large index; it is made first where there is none.
func (b *lettersBench) filled(ctx context.Context, srv servers) (*pgxpool.Pool, error) {
	u, err := url.Parse(srv.postgres)
	if err != nil || u.Scheme == "" {
		return nil, errors.New("PERDURE_POSTGRES_URL must be postgres://user@host/database")
	}
	conn, err := pgx.Connect(ctx, srv.postgres)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is under way
	// Until conn is closed: who comes while another fills the index waits for it.
	if _, err := conn.Exec(ctx, `select pg_advisory_lock(hashtext('fill ' || $1))`, b.database); err != nil {
		return nil, err
	}
	var there bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, b.database).Scan(&there); err != nil {
		return nil, err
	}
	if !there {
		if err := b.fill(ctx, conn, u); err != nil {
			return nil, err
		}
	}
	u.Path = "/" + b.database
	return pg.Pool(ctx, u.String())
}

// fill makes the large index, under another name until it is whole: what was cut off is not
// taken for an index, and is made anew.
func (b *lettersBench) fill(ctx context.Context, conn *pgx.Conn, at *url.URL) error {
	filling := b.database + "_filling"
	if _, err := conn.Exec(ctx, `drop database if exists `+filling); err != nil {
		return fmt.Errorf("start to fill anew: %w", err)
	}
	if _, err := conn.Exec(ctx, `create database `+filling); err != nil {
		return err
	}
	u := *at
	u.Path = "/" + filling
	if err := pg.Migrate(ctx, u.String(), "bench"); err != nil {
		return err
	}
	pool, err := pg.Pool(ctx, u.String())
	if err != nil {
		return err
	}
	err = fillIndex(ctx, pool, b.letters)
	pool.Close()
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `alter database `+filling+` rename to `+b.database)
	return err
}

func (b *lettersBench) runFill(ctx context.Context, srv servers) (string, error) {
	pool, err := b.filled(ctx, srv)
	if err != nil {
		return "", err
	}
	pool.Close()
	return "", nil
}

// lettersCatalog has the queues and kinds of the letters; their effects may happen twice.
func lettersCatalog() (*schemas.Catalog, error) {
	var s strings.Builder
	s.WriteString("version: 1\nqueues:\n")
	for q := range letterQueues {
		fmt.Fprintf(&s, "  q%d: {partitions: 8, replication: 1}\n", q)
	}
	s.WriteString("kinds:\n")
	for k := range letterKinds {
		fmt.Fprintf(&s, "  %s: {queue: q%d, effects: idempotent}\n", kindName(k), k%letterQueues)
	}
	return schemas.ParseCatalog("catalog.yaml", []byte(s.String()), fstest.MapFS{})
}
