package dlq

// Each guard of the statements that write letters is broken once, on the wire between
// the code and Postgres, and a check of what then came about must see it; with the
// statements as they are the same scenario is right.

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// mutator replaces a part of the statements that pass it.
type mutator struct {
	mu       sync.Mutex
	part, by string
	broke    bool // it has
}

func (m *mutator) set(part, by string) (broke bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	broke = m.broke
	m.part, m.by, m.broke = part, by, false
	return broke
}

func (m *mutator) mutate(b []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.part == "" || !bytes.Contains(b, []byte(m.part)) {
		return b
	}
	m.broke = true
	return bytes.ReplaceAll(b, []byte(m.part), []byte(m.by))
}

// mutated is a connection's way to Postgres; each Write is of whole messages.
type mutated struct {
	w io.Writer
	m *mutator

	started bool // the first message has no type
}

func (w *mutated) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for rest := b; len(rest) > 0; {
		at := 1
		if !w.started {
			at, w.started = 0, true
		}
		n := at + int(binary.BigEndian.Uint32(rest[at:]))
		message := rest[:n]
		rest = rest[n:]
		if at == 1 && (message[0] == 'P' || message[0] == 'Q') { // Parse, Query
			text := w.m.mutate(message[5:])
			message = append(binary.BigEndian.AppendUint32([]byte{message[0]}, uint32(len(text)+4)), text...)
		}
		out = append(out, message...)
	}
	if _, err := w.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// broken is an index, and what people do, over a database behind a mutator.
type broken struct {
	*testing.T
	db, straight *pgxpool.Pool
	m            *mutator
	x            *Index
	s            *Letters
	offset       int64
	base         int // the audit is append-only: each scenario has tasks of its own
}

func newBroken(t *testing.T) *broken {
	t.Helper()
	b := &broken{T: t, m: &mutator{}}
	url := testkit.MigratedPostgres(t).URL
	open := func(m *mutator) *pgxpool.Pool {
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		if m != nil {
			// Every statement is sent as text each time, and means what it says.
			cfg.ConnConfig.StatementCacheCapacity, cfg.ConnConfig.DescriptionCacheCapacity = 0, 0
			cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
			cfg.ConnConfig.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
				return pgproto3.NewFrontend(r, &mutated{w: w, m: m})
			}
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	b.db, b.straight = open(b.m), open(nil)
	catalog := testCatalog()
	catalog.Queues["mail"] = &schemas.Queue{Name: "mail", DLQRetention: 100 * time.Hour}
	var err error
	if b.x, err = NewIndex(Config{History: time.Hour}, Deps{DB: b.db, Catalog: catalog, Names: kafka.Names{}}); err != nil {
		t.Fatal(err)
	}
	b.s = NewLetters(b.db)
	return b
}

// index has the index write records, in one batch.
func (b *broken) index(makers ...maker) error {
	var recs []*kgo.Record
	for _, m := range makers {
		recs = append(recs, m(b))
	}
	for _, r := range recs {
		if r.Topic == "" {
			r.Topic = "dlq.payments"
		}
		b.offset++
		r.Offset = b.offset
	}
	return b.x.store(b.Context(), b.x.rows(recs))
}

// own has main-1-<n> be a task of this scenario.
func (b *broken) own(sql string) string {
	return strings.ReplaceAll(sql, "main-1-", fmt.Sprintf("main-1-%d", b.base))
}

func (b *broken) sql(sql string) error {
	_, err := b.straight.Exec(b.Context(), b.own(sql))
	return err
}

// A maker makes a record once its scenario has tasks.
type maker func(b *broken) *kgo.Record

func task(b *broken, n int) string { return b.own(fmt.Sprintf("main-1-%d", n)) }

// dead is a letter's.
func dead(n, epoch int, change ...func(*Letter)) maker {
	return func(b *broken) *kgo.Record {
		l := letterOf(task(b, n), epoch)
		for _, f := range change {
			f(l)
		}
		return Encode(l)
	}
}

func claims(l *Letter) { l.Reason = schemas.ReasonUndecodable } // only says whose it is

func ended(n, epoch int) maker {
	return func(b *broken) *kgo.Record { return Resolved(task(b, n), task(b, n), epoch, time.Now()) }
}

func cancelled(n, epoch int) maker {
	return func(b *broken) *kgo.Record { return Cancelled(task(b, n), task(b, n), epoch, time.Now()) }
}

// breakState breaks the function that says which groups are regressed, if the part is in
// it, and returns what mends it.
func (b *broken) breakState(part, by string) (whole string) {
	b.Helper()
	if err := b.straight.QueryRow(b.Context(), `select pg_get_functiondef('perdure.group_state(perdure.failure_groups)'::regprocedure)`).Scan(&whole); err != nil {
		b.Fatal(err)
	}
	if !strings.Contains(whole, part) {
		return ""
	}
	if _, err := b.straight.Exec(b.Context(), strings.ReplaceAll(whole, part, by)); err != nil {
		b.Fatal(err)
	}
	return whole
}

// first is the first error of steps.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestEachGuardOfTheIndexIsSeenWhenItIsBroken(t *testing.T) {
	b := newBroken(t)
	index := func(recs ...maker) func() error { return func() error { return b.index(recs...) } }
	sql := func(s string) func() error { return func() error { return b.sql(s) } }
	state := func(state string) func() error { return sql(`update perdure.dead_letters set state = '` + state + `'`) }
	prune := func() error { return b.x.pruneAll(b.Context()) }
	aged := sql(`update perdure.dead_letters set changed_at = now() - interval '3 hours'; update perdure.resolutions set at = now() - interval '1 year'; update perdure.events set at = now() - interval '3 hours' where worker = 'old'`)
	event := func(worker string) maker {
		return func(b *broken) *kgo.Record {
			r := EncodeEvent(&Event{TaskID: task(b, 1), Type: EventFailed, At: time.Now(), Worker: worker, Attempt: 1})
			r.Topic = "events.payments"
			return r
		}
	}
	mail := func(b *broken) *kgo.Record { // a letter of another queue
		r := dead(1, 0)(b)
		r.Topic = "dlq.mail"
		return r
	}
	decide := func(d Decision, sel LetterSelector) func() error {
		return func() error { _, err := b.s.Decide(b.Context(), d, &sel, "ann", "", 100); return err }
	}
	restore := func(recs ...maker) func() error {
		return func() error {
			x, _, end, err := b.x.deciding(b.Context())
			if err != nil {
				return err
			}
			defer end()
			y := *b
			y.x = x
			defer func() { b.offset = y.offset }()
			return y.index(recs...)
		}
	}
	lost := sql(`delete from perdure.dead_letters`)
	group := func(fp string) func(*Letter) { return func(l *Letter) { l.Fingerprint = fp } }
	in := func(release string, at time.Duration) func(*Letter) {
		return func(l *Letter) { l.Release, l.DiedAt, l.Fingerprint = release, time.Now().Add(at), "fp2:aa" }
	}
	merge := func() error { _, err := b.s.Merge(b.Context(), "fp2:aa", "fp2:bb", "ann", ""); return err }
	unmerge := func() error { _, err := b.s.Unmerge(b.Context(), "fp2:aa", "ann", ""); return err }
	resolve := func(release string) func() error {
		return func() error {
			c := CareChange{State: new(string)}
			if *c.State = "resolved"; release != "" {
				c.Release = &release
			}
			return b.s.Change(b.Context(), "fp2:aa", "ann", &c)
		}
	}
	const regressed = `select count(*) from perdure.failure_groups g where fingerprint = 'fp2:aa' and perdure.group_state(g) = 'regressed'`
	replay := `insert into perdure.replays (replay, state, selector, dry_run, who, why) values ('r', 'done', '{}', false, 'ann', '') on conflict do nothing;
insert into perdure.replay_letters (replay, n, letter, result) values ('r', 1, 'main-1-1@0', '%s')`
	none := func(where string) string { return `select count(*) from perdure.dead_letters where ` + where }

	for name, c := range map[string]struct {
		part, by string
		run      func() error
		wrong    string // counts what must not be
	}{
		"a letter that is there": {`where letter = any($1::text[])`, `where false and letter = any($1::text[])`,
			func() error { return first(index(dead(1, 0)), state("held"), index(dead(1, 0))) }, none(`state <> 'held'`)},
		"a letter after its resolution": {`exists (select from perdure.resolutions r where r.task_id = t)`, `false`,
			func() error { return first(index(ended(1, 1)), index(dead(1, 0))) }, none(`state = 'open'`)},
		"a letter beside another of its task": {`or exists (select from perdure.letters d where d.task_id = t offset 1)`, ``,
			func() error { return first(index(dead(1, 0)), index(dead(1, 1))) }, none(`letter = 'main-1-1@0' and state = 'open'`)},
		"a resolution of who only claims": {`where t.task_id = any($1::text[]) and t.reason <> 'undecodable'`, `where t.task_id = any($1::text[])`,
			func() error { return first(index(dead(1, 0, claims)), index(ended(1, 1))) }, none(`state <> 'open'`)},
		"a resolution of what was decided": {`(d.state in ('open', 'held', 'replaying') or`, `(true or`,
			func() error { return first(index(dead(1, 0)), state("discarded"), index(ended(1, 1))) }, none(`state <> 'discarded'`)},
		"completed though cancelled": {`or d.resolved_by = 'cancelled' and r.outcome = 'completed'`, ``,
			func() error { return first(index(dead(1, 0)), index(cancelled(1, 1)), index(ended(1, 1))) }, none(`resolved_by <> 'completed'`)},
		"cancelled after it was completed": {`where excluded.outcome = 'completed' and r.outcome <> 'completed' or`, `where true or`,
			func() error { return first(index(ended(1, 1)), index(cancelled(1, 2))) }, `select count(*) from perdure.resolutions where outcome <> 'completed'`},
		"completed of both in one batch": {`order by t, o = 'completed' desc, e desc`, `order by t, e desc`,
			func() error { return first(index(ended(1, 1), cancelled(1, 2))) }, `select count(*) from perdure.resolutions where outcome <> 'completed'`},
		"an older resolution after a newer": {`and excluded.epoch > r.epoch`, ``,
			func() error { return first(index(ended(1, 2)), index(ended(1, 1))) }, `select count(*) from perdure.resolutions where epoch <> 2`},
		"the letter of the highest epoch": {`n.epoch > t.epoch and n.reason`, `n.epoch <> t.epoch and n.reason`,
			func() error { return first(index(dead(1, 0)), index(dead(1, 1))) }, none(`letter = 'main-1-1@1' and state <> 'open'`)},
		"died again as who only claims": {`and n.epoch > t.epoch and n.reason <> 'undecodable'`, `and n.epoch > t.epoch`,
			func() error { return first(index(dead(1, 0)), index(dead(1, 1, claims))) }, none(`state <> 'open'`)},
		"died again of who only claims": {`d.state in ('open', 'held', 'replaying') and t.reason <> 'undecodable'`, `d.state in ('open', 'held', 'replaying')`,
			func() error { return first(index(dead(1, 0, claims)), index(dead(1, 1))) }, none(`state <> 'open'`)},
		"died again, decided before": {`and d.state in ('open', 'held', 'replaying') and t.reason`, `and t.reason`,
			func() error { return first(index(dead(1, 0)), state("discarded"), index(dead(1, 1))) }, none(`letter = 'main-1-1@0' and state <> 'discarded'`)},
		"an outcome of a letter that was refused": {`and l.result = 'replayed' and l.outcome = ''`, `and l.outcome = ''`,
			func() error { return first(index(dead(1, 0)), sql(fmt.Sprintf(replay, "refused")), index(ended(1, 1))) }, `select count(*) from perdure.replay_outcomes`},
		"an outcome that was a cancellation": {`when d.resolved_by = 'cancelled' then 'cancelled'`, `when false then 'cancelled'`,
			func() error {
				return first(index(dead(1, 0)), sql(fmt.Sprintf(replay, "replayed")), index(cancelled(1, 1)))
			}, `select count(*) from perdure.replay_outcomes where outcome <> 'cancelled'`},
		"an outcome of a letter that is open": {`and d.state = 'resolved' and d.reason <> 'undecodable'
on conflict`, `and d.reason <> 'undecodable'
on conflict`,
			func() error {
				return first(index(dead(1, 1), dead(1, 0)), sql(strings.ReplaceAll(fmt.Sprintf(replay, "replayed"), "@0", "@1")), index(dead(1, 0)))
			}, `select count(*) from perdure.replay_outcomes`},
		"an event that is read again": {`$9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::jsonb[])
on conflict do nothing`, `$9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::jsonb[])`,
			func() error {
				return first(index(event("w")), func() error { b.offset--; return nil }, index(event("w")))
			}, `select count(*) - 1 from perdure.events`},

		"a restored letter that was discarded": {`case c.what when 'letter.discard' then 'discarded'`, `case c.what when 'letter.never' then 'discarded'`,
			func() error {
				return first(index(dead(1, 0)), decide(Discard, LetterSelector{All: true}), lost, restore(dead(1, 0)))
			}, none(`state <> 'discarded'`)},
		"the last word of a restored letter": {`order by place desc`, `order by place`,
			func() error {
				return first(index(dead(1, 0)), decide(Hold, LetterSelector{All: true}), decide(Discard, LetterSelector{All: true}), lost, restore(dead(1, 0)))
			}, none(`state <> 'discarded'`)},
		"a letter that is there when others are restored": {`and l.indexed_at >= now()`, ``,
			func() error {
				return first(index(dead(1, 0)), decide(Hold, LetterSelector{All: true}), state("open"), restore(dead(1, 0)))
			}, none(`state <> 'open'`)},
		"a restored letter of its batch": {`and d.letter = any($1::text[]) and l.indexed_at`, `and $1::text[] is not null and l.indexed_at`,
			func() error {
				return first(index(dead(1, 0)), decide(Hold, LetterSelector{All: true}), state("open"), sql(`update perdure.dead_letters set indexed_at = now() + interval '1 hour'`), restore(dead(2, 0)))
			}, none(`letter = 'main-1-1@0' and state <> 'open'`)},

		"a decision of a letter that a replay has": {` any($1)`, ` any($1::text[] || 'replaying'::text)`,
			func() error {
				return first(index(dead(1, 0)), state("replaying"), decide(Discard, LetterSelector{All: true}))
			}, none(`state <> 'replaying'`)},
		"a release of one that waits for its key": {`and (s.reason <> 'blocked' or 'open' = any($1))`, ``,
			func() error {
				return first(index(dead(1, 0, func(l *Letter) { l.Reason = schemas.ReasonBlocked })), decide(Release, LetterSelector{All: true}))
			}, none(`state <> 'held'`)},
		"a decision of another group": {`and ($3 = '' or s.fingerprint = perdure.group_of($3))`, `and ($3 = $3)`,
			func() error {
				return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), decide(Discard, LetterSelector{Group: "fp2:aa"}))
			}, none(`fingerprint = 'fp2:bb' and state <> 'open'`)},
		"a decision that nobody can look up": {`perdure.audit_origin($16) from u`, `perdure.audit_origin($16) from u where false`,
			func() error { return first(index(dead(1, 0)), decide(Discard, LetterSelector{All: true})) },
			none(`state = 'discarded' and not exists (select from perdure.audit a where a.letter = dead_letters.letter and what = 'letter.discard' and who = 'ann')`)},

		"a letter of a merged cause": {`and into_group is not null`, `and false`,
			func() error {
				return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), merge, index(dead(3, 0, group("fp2:aa"))))
			}, none(`fingerprint <> 'fp2:bb'`)},
		"a letter that was merged": {`where fingerprint = own.fingerprint and joined_from is null`, `where false and fingerprint = own.fingerprint and joined_from is null`,
			func() error { return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), merge) }, none(`fingerprint <> 'fp2:bb'`)},
		"a letter that comes back": {`where joined_from = own.fingerprint and fingerprint`, `where false and joined_from = own.fingerprint and fingerprint`,
			func() error {
				return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), merge, unmerge)
			}, none(`letter = 'main-1-1@0' and fingerprint <> 'fp2:aa'`)},
		"whose a merged letter was": {`joined_from = case when l.root <> l.own then l.own end`, `joined_from = null`,
			func() error {
				return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), merge, unmerge)
			}, none(`letter = 'main-1-1@0' and fingerprint <> 'fp2:aa'`)},
		"a letter that an older index filed": {`where a.settled and a.into_group is not null and exists`, `where false and exists`,
			func() error {
				return first(index(dead(1, 0, group("fp2:aa")), dead(2, 0, group("fp2:bb"))), merge, sql(`update perdure.dead_letters set fingerprint = 'fp2:aa', joined_from = null where letter = 'main-1-1@0'`), prune)
			}, none(`fingerprint <> 'fp2:bb'`)},

		"regressed in the release that died before": {`then own or last < (select max(first) from r)`, `then false`,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour))), resolve(""), index(dead(2, 0, in("v1", time.Minute))))
			}, regressed},
		"regressed in the release before the named": {`release <> $8 and not exists`, `false and release <> $8 and not exists`,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour))), resolve("v2"), index(dead(2, 0, in("v1", time.Minute))))
			}, regressed},
		"regressed in the named release": {`release <> $8 and not exists (select from r o where o.release = $8 and o.first <= r.first)`, `true`,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour)), dead(2, 0, in("v2", -time.Minute))), resolve("v2"), index(dead(3, 0, in("v2", time.Minute))))
			}, `select 1 - (` + regressed + `)`},
		"regressed in a release after the named": {`o.release = $8 and o.first <= r.first`, `false`,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour)), dead(2, 0, in("v2", -30*time.Minute)), dead(3, 0, in("v3", -time.Minute))), resolve("v2"), index(dead(4, 0, in("v3", time.Minute))))
			}, `select 1 - (` + regressed + `)`},

		"regressed by a death before it was resolved": {`d.died_at > g.state_at and`, ``,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour))), resolve(""), index(dead(2, 0, in("", -time.Minute))))
			}, regressed},
		"regressed in a release without the mend": {`and d.release <> all (g.releases)`, ``,
			func() error {
				return first(index(dead(1, 0, in("v1", -time.Hour))), resolve(""), index(dead(2, 0, in("v1", time.Minute))))
			}, regressed},

		"what nobody has finished": {`and s.state in ('resolved', 'discarded') and s.changed_at`, `and changed_at`,
			func() error {
				return first(index(dead(1, 0), dead(2, 0)), sql(`update perdure.dead_letters set state = 'held' where letter = 'main-1-2@0'`), aged, prune)
			}, `select 2 - (` + none(`true`) + `)`},
		"what is finished and young": {`and s.changed_at < now() - $2::interval`, `and $2::interval is not null`,
			func() error { return first(index(dead(1, 0)), state("resolved"), prune) }, `select 1 - (` + none(`true`) + `)`},
		"what another queue keeps for longer": {`where s.queue = $1 and s.state`, `where $1::text is not null and state`,
			func() error {
				return first(index(mail), state("resolved"), aged, prune)
			}, `select 1 - (` + none(`true`) + `)`},
		"a resolution while its letter stands": {`and not exists (select from perdure.letters d where d.task_id = r.task_id)`, ``,
			func() error {
				return first(index(mail), index(ended(1, 1)), sql(`update perdure.dead_letters set changed_at = now()`), sql(`update perdure.resolutions set at = now() - interval '1 year'`), prune)
			}, `select 1 - count(*) from perdure.resolutions`},
		"events that are young": {`where at < now() - $1::interval limit $2) o`, `where $1::interval is not null limit $2) o`,
			func() error { return first(index(event("old"), event("young")), aged, prune) }, `select count(*) - 1 from perdure.events having count(*) <> 1`},
	} {
		t.Run(name, func(t *testing.T) {
			play := func() (wrong string) {
				t.Helper()
				for _, table := range []string{"replay_outcomes", "replays", "dead_letters", "resolutions", "events", "group_aliases", "failure_groups", "group_changes", "group_counts", "group_releases"} {
					if err := b.sql(`delete from perdure.` + table); err != nil {
						t.Fatal(err)
					}
				}
				b.base++
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := c.run(); isRival(err) {
					return "it would write twice: " + err.Error()
				} else if err != nil {
					t.Fatal(err) // a statement that is broken otherwise than it was meant
				}
				var n *int
				if err := b.straight.QueryRow(ctx, `select (`+b.own(c.wrong)+`)`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				if n != nil && *n != 0 {
					return fmt.Sprintf("%d are wrong", *n)
				}
				return ""
			}
			if wrong := play(); wrong != "" {
				t.Fatalf("as it is: %s", wrong)
			}
			whole := b.breakState(c.part, c.by)
			b.m.set(c.part, c.by)
			wrong := play()
			broke := b.m.set("", "")
			if err := b.sql(whole); err != nil {
				t.Fatal(err)
			}
			if !broke && whole == "" {
				t.Fatalf("no statement has %q to break", c.part)
			}
			if wrong == "" {
				t.Error("broken, nobody sees it")
			}
			t.Logf("broken: %s", wrong)
		})
	}
}
