package replayer

// Unique keys that are held until their task is completed are given back by the
// index, when it reads that the task has ended. Where that record is lost (its topic
// took nothing for a while, its records were deleted unread, an older worker wrote
// none) the claims know it all the same: here they are asked, a few keys at a time.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// KeysConfig is the Config of Keys. Zero values mean the defaults.
type KeysConfig struct {
	Every time.Duration // between two looks; default 30s
	Most  int           // keys a look asks about, the next look goes on behind them; default 10,000
}

// KeysDeps are what Keys use and do not own.
type KeysDeps struct {
	DB       *pgxpool.Pool
	Claims   Claims
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// Keys looks for unique keys whose tasks have ended. Any number of processes may
// run one.
type Keys struct {
	cfg   KeysConfig
	deps  KeysDeps
	log   *slog.Logger
	freed prometheus.Counter
	after int64 // the last look ended with this seq
}

// keysPage is how many claims are read at once.
const keysPage = 500

// NewKeys returns Keys.
func NewKeys(cfg KeysConfig, deps KeysDeps) (*Keys, error) {
	if deps.DB == nil || deps.Claims == nil {
		return nil, errors.New("unique keys: they need a database and claims")
	}
	if cfg.Every <= 0 {
		cfg.Every = 30 * time.Second
	}
	if cfg.Most <= 0 {
		cfg.Most = 10_000
	}
	k := &Keys{cfg: cfg, deps: deps, log: deps.Log, freed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "perdure_replayer_swept_unique_keys_total", Help: "Unique keys of ended tasks that the index had not given back when they were looked for."})}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		if err := deps.Registry.Register(k.freed); err != nil {
			return nil, fmt.Errorf("unique keys: metrics: %w", err)
		}
	}
	return k, nil
}

// Run looks again and again until ctx ends, and then returns nil. What fails is
// tried again at the next look: a key that nobody gives back stays held.
func (k *Keys) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.look(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("unique keys: cannot look for those of ended tasks now; tries again", "wait", k.cfg.Every, "err", err)
		}
	}
}

// look asks about the next keys, from the beginning again after the last.
func (k *Keys) look(ctx context.Context) error {
	for asked := 0; asked < k.cfg.Most; {
		ids, last, err := k.next(ctx, min(keysPage, k.cfg.Most-asked))
		if err != nil {
			return err
		}
		if err := k.release(ctx, ids); err != nil {
			return err
		}
		asked += len(ids)
		k.after = last
		if last == 0 {
			return nil
		}
	}
	return nil
}

const nextKeys = `
select s.source, u.generation, u.seq from perdure.unique_keys u, perdure.source s
where u.expires = 'infinity' and u.seq > $1 order by u.seq limit $2`

// next reads the holders behind the last; last is 0 where no more follow.
func (k *Keys) next(ctx context.Context, n int) (ids []string, last int64, err error) {
	rows, err := k.deps.DB.Query(ctx, nextKeys, k.after, n)
	if err != nil {
		return nil, 0, fmt.Errorf("read the holders of unique keys: %w", err)
	}
	var id schemas.ID
	_, err = pgx.ForEachRow(rows, []any{&id.Source, &id.Generation, &id.Seq}, func() error {
		ids, last = append(ids, id.String()), id.Seq
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the holders of unique keys: %w", err)
	}
	if len(ids) < n {
		last = 0
	}
	return ids, last, nil
}

// release gives back the keys of those tasks that the claims know to have ended.
// Dead ones hold theirs, and of what Redis does not know nothing can be said.
func (k *Keys) release(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	known, err := k.deps.Claims.Get(ctx, ids...)
	if err != nil {
		return fmt.Errorf("read %d claims: %w", len(ids), err)
	}
	var ended []string
	for i, c := range known {
		if c.State == claims.Done || c.State == claims.Cancelled {
			ended = append(ended, ids[i])
		}
	}
	if len(ended) == 0 {
		return nil
	}
	var n int64
	if err := k.deps.DB.QueryRow(ctx, `select perdure.release_unique($1)`, ended).Scan(&n); err != nil {
		return fmt.Errorf("give back the unique keys of %d ended tasks: %w", len(ended), err)
	}
	if n > 0 {
		k.freed.Add(float64(n))
		k.log.Info("gave back unique keys of ended tasks that the index had not given back", "keys", n, "first", ended[0])
	}
	return nil
}
