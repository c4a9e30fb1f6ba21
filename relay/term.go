package relay

// A term: from taking the lease to losing it or giving it back. Everything that
// the cursor's fence guards happens on one connection and in one goroutine.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

type term struct {
	r       *Relay
	conn    *pgx.Conn // its session has synchronous_commit on
	is      identity
	fence   int64
	place   pgtype.TID // of the cursor's row; see atPlace
	given   bool       // the lease is given back
	ended   func()     // stops renewing the lease
	out     *producer
	side    *kgo.Client // for all that passes do not wait for
	control *control

	limit     int               // rows of the next chunk
	bundled   int               // tasks of a row, as the last chunk had them, rounded up; 0 = none so far
	target    target            // what the cursor holds
	large     bool              // of a held target: the next chunk continues a large window
	at        int64             // of which this id and all below are relayed
	last      int64             // of which this is the highest; 0 = not known
	moved     time.Time         // when the cursor was about to move past a handful; see pace
	watch     watch             // waits for writes
	empty     string            // the snapshot of a pass that found nothing, if it was the last one; "" = read
	ids       int64             // the highest that was handed out, as last seen
	ahead     *window           // the next chunk, if it is read already
	spare     []*slab           // see slab
	routes    map[string]*route // by queue; see routeOf
	encoder   encoder
	words     map[string]string     // see word
	parked    map[string]string     // queue → why, of queues whose rows go to perdure.parked
	trials    map[string]*trial     // by queue, while it is parked
	due       time.Time             // when to look at perdure.scheduled
	scheduled map[string]*scheduled // by queue
	wholeAt   time.Time             // when to look at all of perdure.scheduled again
	recurAt   time.Time             // when to look at perdure.schedules; zero = the catalog has none
	probe     time.Time             // when to look at parked queues again
	upkeep    time.Time             // when to look after partitions
}

// oneTerm waits for the lease, relays until ctx ends or something fails, and
// gives the lease back.
func (r *Relay) oneTerm(ctx context.Context) (err error) {
	t := &term{r: r, limit: r.cfg.Chunk, words: map[string]string{}, routes: map[string]*route{}, encoder: encoder{r: r}}
	if t.conn, err = r.connect(ctx); err != nil {
		return err
	}
	defer func() { closeConn(t.conn) }()
	if t.is, err = r.identify(ctx, t.conn); err != nil {
		return err
	}
	defer t.close()
	if err := t.open(); err != nil {
		return err
	}
	c, err := t.standby(ctx)
	if err != nil {
		return err
	}
	r.fence, t.large, t.at = t.fence, c.held && c.atID > 0, c.atID
	if c.held {
		t.target = held
	}

	defer t.giveBack(ctx)
	// Asked again: a standby may have waited for days, and the sequence grew.
	if t.is, err = r.identify(ctx, t.conn); err != nil {
		return err
	}
	t.ids = t.is.sequence
	if err := checkCursor(t.is, c); err != nil {
		return err
	}

	// The pass under way when ctx ends is finished; hence a context of its own.
	g, work := errgroup.WithContext(context.WithoutCancel(ctx))
	rest, ended := context.WithCancel(work) // ends with the loop
	t.ended = ended
	g.Go(func() error { return t.keepLease(rest) })
	g.Go(func() error { return r.grace(ctx, rest) })
	g.Go(func() error {
		defer ended()
		return t.relay(ctx, work)
	})
	return g.Wait()
}

// grace ends the work that does not end by itself after ctx did.
func (r *Relay) grace(ctx, rest context.Context) error {
	select {
	case <-rest.Done():
		return nil
	case <-ctx.Done():
	}
	if sleep(rest, r.cfg.Grace); rest.Err() == nil {
		return fmt.Errorf("relay: told to stop, and the pass under way did not end within %v: it will be repeated", r.cfg.Grace)
	}
	return nil
}

// connect opens the term's own connection. It is not the pool's: a session's
// settings must not leak, and a term must not wait for the pool.
func (r *Relay) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg := r.deps.DB.Config().ConnConfig.Copy()
	for name, value := range map[string]string{
		"application_name":                    "perdure-relay",
		"synchronous_commit":                  "on", // the cursor must survive what it has passed
		"default_transaction_isolation":       "read committed",
		"idle_in_transaction_session_timeout": fmt.Sprint(r.cfg.LeaseTTL.Milliseconds()), // a stopped holder keeps no lock
		"max_parallel_workers_per_gather":     "0",
		// Every read of the relay has an index that fits. A plan that was made while
		// a partition was empty must not be one that reads all of it.
		"enable_seqscan":    "off",
		"enable_bitmapscan": "off",
		"enable_hashjoin":   "off",
		"enable_mergejoin":  "off",
		"work_mem":          "64MB",
		"jit":               "off",
	} {
		cfg.RuntimeParams[name] = value
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement // reads are binary, whatever suits the pool
	conn, err := pgx.ConnectConfig(ctx, cfg)
	var refused *pgconn.PgError
	// Postgres itself knows all of these settings. A pooler's other refusals, of a server
	// that is away, have the same code, and pass.
	if errors.As(err, &refused) && refused.Code == "08P01" && strings.Contains(refused.Message, "startup parameter") {
		return nil, haltPooler("it refuses a session's settings: " + refused.Message)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return conn, nil
}

// standby waits until the lease is free and takes it.
func (t *term) standby(ctx context.Context) (c cursor, err error) {
	r := t.r
	stop := func() error { return nil }
	defer func() {
		if serr := stop(); err == nil {
			err = serr
		}
	}()
	var rehearsed time.Time // zero = not yet: who finds the lease free need not wait
	for {
		fence, c, ok, err := r.take(ctx, t.conn, t.is)
		if err != nil {
			return c, err
		}
		if ok {
			t.fence, t.place = fence, c.place
			r.log.Info("took the lease", "fence", fence)
			return c, nil
		}
		r.setState(StateStandby, nil)
		if rehearsed.IsZero() {
			stop = t.keepWarm(ctx)
		}
		if time.Since(rehearsed) > warmEvery {
			t.rehearse(ctx)
			rehearsed = time.Now()
		}
		sleep(ctx, r.cfg.Standby)
		if ctx.Err() != nil {
			return c, ctx.Err()
		}
	}
}

// relay opens what the active relay needs, makes sure that Kafka and the
// database agree, and loops. ctx says when to stop, work when to let go.
func (t *term) relay(ctx, work context.Context) (err error) {
	r := t.r
	defer t.close() // before the lease is given back
	adm := kadm.NewClient(t.side)
	known, err := r.readControl(work, adm)
	if err != nil {
		return err
	}
	if err := checkControl(t.is, known, r.high); err != nil {
		return err
	}
	t.control = &control{r: r, cl: t.side, is: t.is}
	if known != nil {
		t.control.known = known.Seq
	}
	if known != nil && known.Generation == t.is.generation {
		t.control.written = known.Seq
	}
	defer t.endTrials()
	if err := t.resume(work); err != nil {
		return err
	}
	t.setActive()
	defer r.metrics.active.Set(0)

	g, chores := errgroup.WithContext(work)
	chores, end := context.WithCancel(chores)
	g.Go(func() error { r.runChores(chores, t.side); return nil })
	g.Go(func() error { r.runMeasure(chores); return nil })
	g.Go(func() error {
		defer end()
		defer t.watch.close()
		if err := t.loop(ctx, work); err != nil {
			return err
		}
		t.handOver(work)
		return nil
	})
	return g.Wait()
}

// handOver gives the lease back once nothing more will be moved, before clients and
// sessions are closed: a standby waits for that.
func (t *term) handOver(ctx context.Context) {
	t.control.last(context.WithoutCancel(ctx), t.r.high) // only a holder may
	t.ended()
	t.giveBack(ctx)
}

func (t *term) giveBack(ctx context.Context) {
	if t.given {
		return
	}
	t.given = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	t.release(ctx)
}

// loop turns until ctx ends or something fails that repeating does not mend.
func (t *term) loop(ctx, work context.Context) error {
	r := t.r
	idle := newBackoff(time.Millisecond, r.cfg.Idle)
	trouble := newBackoff(50*time.Millisecond, 5*time.Second)
	for ctx.Err() == nil {
		busy, err := t.turn(work)
		var wait *waitError
		switch {
		case errors.As(err, &wait):
			r.setState(StateWaiting, err)
			r.metrics.produceErrors.WithLabelValues(wait.class).Inc()
			r.log.Warn("cannot relay now, trying again", "cause", err)
			sleep(ctx, trouble.next())
		case err != nil:
			return fmt.Errorf("%w%s", err, causeOf(work))
		case busy:
			idle.reset()
			trouble.reset()
			t.setActive()
		default:
			trouble.reset()
			t.setActive()
			if pause := idle.next(); pause < r.cfg.Idle {
				sleep(ctx, pause)
			} else {
				t.await(ctx, work, pause)
			}
		}
	}
	return nil
}

// causeOf says why work was ended, if it was.
func causeOf(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil {
		return ": " + cause.Error()
	}
	return ""
}

// turn does once what is due. busy says that there may be more at once.
func (t *term) turn(ctx context.Context) (busy bool, err error) {
	if busy, err = t.pass(ctx); err != nil {
		return busy, err
	}
	now := time.Now()
	if !t.due.IsZero() && !now.Before(t.due) {
		n, err := t.promote(ctx)
		if err != nil {
			return busy, err
		}
		busy = busy || n > 0
	}
	if !t.recurAt.IsZero() && !now.Before(t.recurAt) {
		n, err := t.recur(ctx)
		if errors.Is(err, errLeaseLost) {
			return busy, err
		} else if err != nil { // passes go on
			t.r.log.Error("cannot file the tasks that are due by schedule, trying again", "cause", err)
		}
		busy = busy || n > 0
	}
	if len(t.parked) > 0 && !now.Before(t.probe) {
		n, err := t.unpark(ctx)
		if err != nil {
			return busy, err
		}
		busy = busy || n > 0
	}
	if !now.Before(t.upkeep) {
		t.upkeep = now.Add(t.r.cfg.Upkeep)
		if err := t.lookAfterPartitions(ctx); errors.Is(err, errLeaseLost) {
			return busy, err
		} else if err != nil { // the overflow partition takes what has no other: passes go on
			t.r.metrics.upkeepErrors.Inc()
			t.r.log.Error("cannot look after the outbox's partitions, trying again", "cause", err)
		}
	}
	t.control.offer(t.r.high)
	return busy, nil
}
