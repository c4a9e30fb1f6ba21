package relay

// Reset: after a database was replaced (restored, promoted, reloaded, upgraded),
// it makes the outbox one that may be relayed again, and never guesses: what
// Kafka may have already is held for a person.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ResetOptions say what a reset may do.
type ResetOptions struct {
	// DryRun finds out and changes nothing; producers do not wait for it.
	DryRun bool
	// Upgraded says that the database is the same data under a new system
	// identifier, as pg_upgrade leaves it: nothing was lost, so nothing is held.
	// What can be checked of that is checked.
	Upgraded bool
	// Who asks, for the audit; required.
	Who string
}

// ResetReport is what a reset did, or with DryRun would do.
type ResetReport struct {
	Source     string           `json:"source"`
	DryRun     bool             `json:"dry_run"`
	Found      []string         `json:"found"`     // why the relay halts
	KafkaSeq   int64            `json:"kafka_seq"` // highest id that Kafka has; 0 = none
	Sequence   [2]int64         `json:"sequence"`  // before, after
	Generation [2]int           `json:"generation"`
	Held       map[string]int64 `json:"held"` // queue → tasks that Kafka may have already
	Sent       int64            `json:"sent"` // tasks that Kafka cannot have: they leave by themselves
}

// RefusedError says why a reset was not begun; nothing was changed.
type RefusedError struct{ Why, Mend string }

func (e *RefusedError) Error() string { return "outbox reset refused: " + e.Why + ": " + e.Mend }

// Reset re-bases the cursor on this database, moves the sequence past Kafka's
// highest id and raises the generation, in one transaction that waits for open
// writers of the outbox and lets none in meanwhile. cfg needs Source. The error
// is a *RefusedError or a *HaltError where a reset is not the answer.
func Reset(ctx context.Context, cfg Config, deps Deps, opt ResetOptions) (*ResetReport, error) {
	cfg.Owner = "outbox reset"
	r, err := New(cfg, deps)
	if err != nil {
		return nil, err
	}
	if opt.Who == "" {
		return nil, errors.New("relay: a reset needs to know who asks for it")
	}
	conn, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	x := &resetting{r: r, conn: conn, opt: opt}
	return x.run(ctx)
}

// resetting is one reset under way.
type resetting struct {
	r       *Relay
	conn    *pgx.Conn
	opt     ResetOptions
	is      identity
	cursor  cursor
	known   *relayed // nil: nothing readable
	kafka   reach
	foreign bool // the outbox's xids may be of another cluster
}

func (x *resetting) run(ctx context.Context) (*ResetReport, error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, x.r.deps.Kafka...), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	found, err := x.look(ctx, kadm.NewClient(cl))
	if err != nil {
		return nil, err
	}
	rep := &ResetReport{Source: x.is.source, DryRun: x.opt.DryRun, Found: found, KafkaSeq: x.kafka.seq, Held: map[string]int64{}}
	rep.Generation = [2]int{x.is.generation, max(x.is.generation, x.kafka.generation) + 1}
	err = pgx.BeginFunc(ctx, x.conn, func(tx pgx.Tx) error {
		if err := x.change(ctx, tx, rep); err != nil {
			return err
		}
		if x.opt.DryRun {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	if x.opt.DryRun {
		return rep, nil
	}
	// A relay on the database that was replaced must halt too, when it starts.
	x.is.generation = rep.Generation[1]
	c := &control{r: x.r, cl: cl, is: x.is}
	if err := cl.ProduceSync(ctx, c.record(rep.Sequence[1])).FirstErr(); err != nil {
		return rep, fmt.Errorf("the reset is done, but kafka: produce to %s: %w: make sure that no relay runs on the database that was replaced", x.r.deps.Names.Control(), err)
	}
	return rep, nil
}

var errDryRun = errors.New("dry run")

// look asks both sides, and refuses where there is nothing to mend.
func (x *resetting) look(ctx context.Context, adm *kadm.Client) (found []string, err error) {
	r := x.r
	if x.is, err = r.identify(ctx, x.conn); err != nil {
		return nil, err
	}
	var owner *string
	var free bool
	err = x.conn.QueryRow(ctx, resetCursor, r.cfg.Source, x.is.systemID, x.is.database, x.is.timeline).
		Scan(&x.cursor.prev, &x.cursor.held, &x.cursor.systemID, &x.cursor.database, &x.cursor.timeline, &x.cursor.ahead, &free, &owner)
	if err != nil {
		return nil, fmt.Errorf("postgres: read the relay's cursor: %w", err)
	}
	if !free {
		return nil, x.relayLives(*owner)
	}
	note := func(err error) error {
		var h *HaltError
		if errors.As(err, &h) {
			found = append(found, fmt.Sprintf("%s: %s", h.Reason, h.Found))
			return nil
		}
		return err
	}
	x.known, err = r.readControl(ctx, adm)
	if err := note(err); err != nil { // a value that is not ours: everything is read then
		return nil, err
	}
	if err := note(checkCursor(x.is, x.cursor)); err != nil {
		return nil, err
	}
	if err := note(checkControl(x.is, x.known, 0)); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, &RefusedError{"this is the database that the cursor and Kafka know", "there is nothing to mend: start `perdure relay`"}
	}
	if x.kafka, err = r.highest(ctx, adm, x.known); err != nil {
		return nil, err
	}
	x.foreign = x.cursor.systemID != x.is.systemID || x.cursor.ahead
	if x.opt.Upgraded {
		return found, x.checkUpgraded()
	}
	return found, nil
}

func (x *resetting) relayLives(owner string) error {
	return &RefusedError{fmt.Sprintf("relay %q holds the lease", owner), "stop every relay of this source, wait until its lease has run out (5 s), then try again"}
}

// checkUpgraded holds what pg_upgrade keeps against what is there.
func (x *resetting) checkUpgraded() error {
	no := func(why string) error {
		return &RefusedError{"this is not the same data after pg_upgrade: " + why, "leave --upgraded out"}
	}
	switch {
	case x.cursor.systemID == x.is.systemID:
		return no("the system identifier is still the same")
	case x.cursor.ahead:
		return no("its transactions are behind the cursor's")
	case x.kafka.seq > x.is.sequence:
		return no(fmt.Sprintf("Kafka has ids up to %d, its sequence stands at %d", x.kafka.seq, x.is.sequence))
	}
	return nil
}

// change does it all in tx.
func (x *resetting) change(ctx context.Context, tx pgx.Tx, rep *ResetReport) error {
	shard := x.r.cfg.Source
	if !x.opt.DryRun {
		if err := x.lockOutbox(ctx, tx); err != nil {
			return err
		}
	}
	tag, err := tx.Exec(ctx, resetLease, shard, x.r.cfg.Owner)
	if err != nil {
		return fmt.Errorf("postgres: take the lease: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return x.relayLives("that has just started")
	}
	if !x.opt.Upgraded {
		if err := x.sort(ctx, tx, rep); err != nil {
			return err
		}
	}
	if err := tx.QueryRow(ctx, sequenceGoal, x.kafka.seq).Scan(&rep.Sequence[0], &rep.Sequence[1]); err != nil {
		return fmt.Errorf("postgres: ask where the sequence stands: %w", err)
	}
	if x.opt.DryRun {
		return nil
	}
	if _, err := tx.Exec(ctx, `select setval('perdure.outbox_id_seq', $1)`, rep.Sequence[1]); err != nil {
		return fmt.Errorf("postgres: move the outbox's sequence: %w", err)
	}
	if _, err := tx.Exec(ctx, `update perdure.source set generation = $1`, rep.Generation[1]); err != nil {
		return fmt.Errorf("postgres: raise the generation: %w", err)
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(`alter table perdure.outbox alter column generation set default %d`, rep.Generation[1])); err != nil {
		return fmt.Errorf("postgres: raise the outbox's generation: %w", err)
	}
	rebase := rebaseCursor
	if x.opt.Upgraded {
		rebase = renameCursor
	}
	if _, err := tx.Exec(ctx, rebase, shard, x.is.systemID, x.is.database, x.is.timeline); err != nil {
		return fmt.Errorf("postgres: re-base the relay's cursor: %w", err)
	}
	details, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into perdure.audit (who, what, details) values ($1, 'outbox reset', $2)`, x.opt.Who, details); err != nil {
		return fmt.Errorf("postgres: write the audit: %w", err)
	}
	return nil
}

// lockOutbox waits until nobody writes the outbox or has reserved ids (they read
// perdure.source, see dispatcher/client), and lets nobody begin. It asks again
// and again for moments shorter than deadlock_timeout, so that a producer which
// holds one of the two and waits for the other is never the victim.
func (x *resetting) lockOutbox(ctx context.Context, tx pgx.Tx) error {
	until := time.Now().Add(resetPatience)
	for {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { // a savepoint
			if _, err := tx.Exec(ctx, `set local lock_timeout = '300ms'`); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `lock table perdure.source, perdure.outbox in access exclusive mode`)
			return err
		})
		var pe *pgconn.PgError
		switch {
		case err == nil:
			return nil
		case !lockBusy(err) || !errors.As(err, &pe):
			return fmt.Errorf("postgres: lock the outbox: %w", err)
		case time.Now().After(until):
			var pids []int32
			if err := tx.QueryRow(ctx, outboxHolders).Scan(&pids); err != nil {
				return fmt.Errorf("postgres: ask who holds the outbox: %w", err)
			}
			return &RefusedError{fmt.Sprintf("transactions that use the outbox are open, pids %v", pids), "end them, or wait until they have, then try again"}
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// resetPatience is how long open writers are waited for.
const resetPatience = 10 * time.Second
