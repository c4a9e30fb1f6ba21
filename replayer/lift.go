package replayer

// Lifts: once the letter that blocks a key (on_dead: block) is settled, the tasks
// that wait behind it go on, in the order they had.
//
//	wanted    a letter that blocked is settled; none of the key stands any more
//	asked     an ask is on its way to the key's line
//	answered  the line stands there: every letter made before it is in the index
//	releasing the blocks are named, the waiting tasks go back into the outbox
//	(over)    the end is on its way; the line goes on behind what was released
//
// Everything of it stands in perdure.key_lifts, so that any process goes on with it.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/schemas"
)

// LiftsConfig is the Config of Lifts. Zero values mean the defaults.
type LiftsConfig struct {
	Poll  time.Duration // between two looks; default 300ms
	Slice int           // tasks of a key in one transaction; default 500
}

// LiftsDeps are what Lifts use and do not own.
type LiftsDeps struct {
	DB       *pgxpool.Pool
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// Lifts lets blocked keys go on. Any number of processes may run one.
type Lifts struct {
	cfg      LiftsConfig
	deps     LiftsDeps
	log      *slog.Logger
	lifted   prometheus.Counter
	released prometheus.Counter
}

// NewLifts returns Lifts.
func NewLifts(cfg LiftsConfig, deps LiftsDeps) (*Lifts, error) {
	if deps.DB == nil {
		return nil, errors.New("lifts: they need a database")
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 300 * time.Millisecond
	}
	if cfg.Slice <= 0 {
		cfg.Slice = 500
	}
	l := &Lifts{cfg: cfg, deps: deps, log: deps.Log,
		lifted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perdure_replayer_lifted_keys_total", Help: "Keys whose block was lifted, because the letter that blocked them is settled."}),
		released: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perdure_replayer_released_tasks_total", Help: "Tasks that waited behind a dead one of their key and were let go on."}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		for _, c := range []prometheus.Collector{l.lifted, l.released} {
			if err := deps.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("lifts: metrics: %w", err)
			}
		}
	}
	return l, nil
}

// Run looks until ctx ends, and then returns nil. What fails is tried again: a
// key that is not lifted stays blocked, and nothing of it is lost.
func (l *Lifts) Run(ctx context.Context) error {
	wait := l.cfg.Poll
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		err := l.look(ctx)
		if err == nil {
			wait = l.cfg.Poll
			continue
		}
		if ctx.Err() == nil {
			wait = min(2*wait, 10*time.Second)
			l.log.Warn("lifts: cannot go on now; tries again", "wait", wait, "err", err)
		}
	}
}

const findLifts = `
select queue, key, stage from perdure.key_lifts where wanted and stage = 'none' or stage in ('answered', 'releasing') order by at limit 100`

func (l *Lifts) look(ctx context.Context) error {
	rows, err := l.deps.DB.Query(ctx, findLifts)
	if err != nil {
		return fmt.Errorf("read the keys to lift: %w", err)
	}
	type line struct{ Queue, Key, Stage string }
	lines, err := pgx.CollectRows(rows, pgx.RowToStructByPos[line])
	if err != nil {
		return fmt.Errorf("read the keys to lift: %w", err)
	}
	var failed error
	for _, k := range lines {
		if k.Stage == "none" {
			err = l.ask(ctx, k.Queue, k.Key)
		} else {
			err = l.release(ctx, k.Queue, k.Key)
		}
		if err != nil { // the others' turn comes all the same
			failed = errors.Join(failed, fmt.Errorf("queue %s: lift a key: %w", k.Queue, err))
		}
	}
	return failed
}

// ask sends the ask of a new lift, unless a letter of the key stands: its end will
// want a lift again. The row is taken first, so that what is settled meanwhile
// waits, and then wants it anew.
const (
	lockWanted = `select from perdure.key_lifts where queue = $1 and key = $2 and wanted and stage = 'none' for update`
	dropWanted = `delete from perdure.key_lifts where queue = $1 and key = $2`
	askLift    = `
with n as materialized (
  select nextval('perdure.lift_seq') as lift, (select task_id from perdure.letters
    where queue = $1 and key = $2 and (block or reason = 'blocked') and task_id is not null order by dlq_offset desc limit 1) as task),
u as (
  update perdure.key_lifts k set wanted = false, stage = 'asked', lift = n.lift, task = n.task, blocks = '', at = clock_timestamp()
  from n where k.queue = $1 and k.key = $2 and n.task is not null returning n.lift, n.task)
select perdure.put_line($1, $2, task, 'ask ' || lift) from u`
)

func (l *Lifts) ask(ctx context.Context, queue, key string) error {
	return pgx.BeginFunc(ctx, l.deps.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, lockWanted, queue, key)
		if err != nil || tag.RowsAffected() == 0 {
			return err // another process has it
		}
		var stands bool
		if err := tx.QueryRow(ctx, `select perdure.blocks_stand($1, $2)`, queue, key).Scan(&stands); err != nil {
			return err
		}
		if !stands {
			if tag, err = tx.Exec(ctx, askLift, queue, key); err != nil || tag.RowsAffected() > 0 {
				return err
			}
			// Its letters are pruned: nothing of it waits.
		}
		_, err = tx.Exec(ctx, dropWanted, queue, key)
		return err
	})
}

// Letters are locked before the key's row: so do the index and people, whose
// settling of a letter wants a lift.
const (
	lockParked = `
select s.letter, l.task_id, s.epoch, s.kind, length(l.payload), l.record_key, l.headers, s.place from perdure.letter_states s join perdure.letters l on l.letter = s.letter
where s.letter in (
  select letter from perdure.letter_states where queue = $1 and line = $2 and reason = 'blocked' and state = 'held'
  order by place, epoch, letter limit $3)
order by s.letter for update of s`
	lockAnswered = `
select lift, stage, blocks, perdure.blocks_stand($1, $2), wanted, coalesce(task, (select task_id from perdure.letters
    where queue = $1 and key = $2 and (block or reason = 'blocked') and task_id is not null order by dlq_offset desc limit 1)) -- asked by an older version
from perdure.key_lifts where queue = $1 and key = $2 and stage in ('answered', 'releasing') for update`
	putLine      = `select perdure.put_line($1, $2, $3, $4)`
	goesOn       = `update perdure.key_lifts set stage = 'releasing', at = clock_timestamp() where queue = $1 and key = $2`
	liftOver     = `delete from perdure.key_lifts where queue = $1 and key = $2 and not wanted`
	liftAgain    = `update perdure.key_lifts set stage = 'none', lift = null, blocks = '', at = clock_timestamp() where queue = $1 and key = $2`
	noteReleased = `
insert into perdure.audit (who, what, why, details)
values ('perdure', 'letters.release', 'the letter that blocked their key is settled', jsonb_build_object('queue', $1::text, 'lift', $2::bigint, 'letters', $3::text[]))`
	// Ids are taken in the tasks' order, and in this transaction: PROTOCOL section 1.
	takeIDs     = `select nextval('perdure.outbox_id_seq') from generate_series(1, $1::int)`
	releaseRows = `
with i as (select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::jsonb[]) u(id, letter, key, content_type, headers)),
l as (
  update perdure.letter_states s set state = 'replaying', replays = replays + 1, released = i.id, changed_at = clock_timestamp()
  from i join perdure.letters d on d.letter = i.letter where s.letter = i.letter and s.state = 'held'
  returning i.id, i.key, i.content_type, i.headers, d.task_id, d.epoch + 1 as epoch, d.kind, d.queue, d.payload, d.deadline)
insert into perdure.outbox (id, epoch, task_id, kind, queue, key, content_type, headers, payload, deadline)
select id, epoch, task_id, kind, queue, key, content_type, headers, payload, deadline from l`
)

// slicesATurn is how many slices of a key go before other keys have their turn.
const slicesATurn = 10

// release lets the next tasks of a key go; the last ones are followed by the end.
func (l *Lifts) release(ctx context.Context, queue, key string) error {
	for range slicesATurn {
		more, n := false, 0
		err := pgx.BeginFunc(ctx, l.deps.DB, func(tx pgx.Tx) (err error) {
			more, n, err = l.releaseSome(ctx, tx, queue, key)
			return err
		})
		if err != nil {
			return err
		}
		l.released.Add(float64(n))
		if !more {
			return nil
		}
	}
	return nil
}

func (l *Lifts) releaseSome(ctx context.Context, tx pgx.Tx, queue, key string) (more bool, n int, err error) {
	parked, err := l.parked(ctx, tx, queue, key)
	if err != nil {
		return false, 0, err
	}
	var lift int64
	var stage, blocks, task string
	var stands, wanted bool
	err = tx.QueryRow(ctx, lockAnswered, queue, key).Scan(&lift, &stage, &blocks, &stands, &wanted, &task)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, 0, nil // another process ended it
	}
	if err != nil {
		return false, 0, fmt.Errorf("read the lift: %w", err)
	}
	put := func(line schemas.Line) error {
		_, err := tx.Exec(ctx, putLine, queue, key, task, line.String())
		return err
	}
	// A letter came that the index had not read when the lift was asked for, or one
	// that was let go died: the rest waits for the next lift.
	if stands || wanted && stage == "releasing" {
		l.log.Info("lifts: a letter of the key stands: what still waits behind it stays", "queue", queue, "lift", lift)
		return false, 0, l.over(ctx, tx, queue, key, put(schemas.Line{Verb: schemas.LineEnd, Lift: lift}))
	}
	if stage == "answered" {
		for _, line := range lifting(lift, strings.Fields(blocks)) {
			if err := put(line); err != nil {
				return false, 0, err
			}
		}
		if _, err := tx.Exec(ctx, goesOn, queue, key); err != nil {
			return false, 0, err
		}
	}
	gone, err := l.send(ctx, tx, parked, lift)
	if err != nil {
		return false, 0, err
	}
	if len(gone) > 0 {
		if _, err := tx.Exec(ctx, noteReleased, queue, lift, gone); err != nil {
			return false, 0, fmt.Errorf("audit: %w", err)
		}
	}
	if len(gone) > 0 && len(parked) == l.cfg.Slice {
		return true, len(gone), nil
	}
	if err := l.over(ctx, tx, queue, key, put(schemas.Line{Verb: schemas.LineEnd, Lift: lift})); err != nil {
		return false, 0, err
	}
	l.lifted.Inc()
	l.log.Info("lifts: a key goes on", "queue", queue, "lift", lift, "released", len(gone))
	return false, len(gone), nil
}

// over forgets a lift whose end is written, unless another is wanted already.
func (l *Lifts) over(ctx context.Context, tx pgx.Tx, queue, key string, err error) error {
	if err != nil {
		return fmt.Errorf("write the end: %w", err)
	}
	tag, err := tx.Exec(ctx, liftOver, queue, key)
	if err != nil || tag.RowsAffected() > 0 {
		return err
	}
	_, err = tx.Exec(ctx, liftAgain, queue, key)
	return err
}

// lifting names blocks, as many in a mark as fit.
func lifting(lift int64, letters []string) (lines []schemas.Line) {
	const fit = 80 // of at most 70 bytes each
	for len(letters) > 0 {
		n := min(fit, len(letters))
		lines = append(lines, schemas.Line{Verb: schemas.LineLift, Lift: lift, Letters: letters[:n]})
		letters = letters[n:]
	}
	return lines
}

func (l *Lifts) parked(ctx context.Context, tx pgx.Tx, queue, key string) ([]letter, error) {
	rows, err := tx.Query(ctx, lockParked, queue, key, l.cfg.Slice)
	if err != nil {
		return nil, fmt.Errorf("read the waiting tasks: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w letter, err error) {
		var size *int
		err = row.Scan(&w.id, &w.taskID, &w.epoch, &w.kind, &size, &w.key, &w.headers, &w.place)
		if size != nil {
			w.size = *size
		}
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the waiting tasks: %w", err)
	}
	return list, nil
}

// send writes the rows of waiting tasks, in the order of their places, up to
// maxMoved bytes at a time, and returns their letters.
func (l *Lifts) send(ctx context.Context, tx pgx.Tx, list []letter, lift int64) (gone []string, err error) {
	slices.SortFunc(list, func(a, b letter) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.id, b.id))
	})
	line := schemas.Line{Verb: schemas.LineFrom, Lift: lift}.String()
	for len(list) > 0 {
		var letters, types []string
		var keys []*string
		var headers [][]byte
		for size := 0; len(list) > 0 && (len(letters) == 0 || size+list[0].size <= maxMoved); list = list[1:] {
			w := &list[0]
			row, why := rebuildFor(w, line)
			if why != "" {
				// It was a task's record: nothing but a damaged row comes here.
				l.log.Error("lifts: a waiting task cannot be let go; it stays held: see `perdure dlq show`", "letter", w.id, "why", why)
				continue
			}
			size += w.size
			letters, keys, types, headers = append(letters, w.id), append(keys, row.key), append(types, row.contentType), append(headers, row.headers)
		}
		if len(letters) == 0 {
			break
		}
		rows, err := tx.Query(ctx, takeIDs, len(letters))
		if err != nil {
			return nil, fmt.Errorf("take ids: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return nil, fmt.Errorf("take ids: %w", err)
		}
		tag, err := tx.Exec(ctx, releaseRows, ids, letters, keys, types, headers)
		if err != nil {
			return nil, fmt.Errorf("release %d waiting tasks: %w", len(letters), err)
		}
		if int(tag.RowsAffected()) != len(letters) {
			return nil, fmt.Errorf("release waiting tasks: %d rows of %d, though they are locked", tag.RowsAffected(), len(letters))
		}
		gone = append(gone, letters...)
	}
	return gone, nil
}
