package replayer

// What a policy waits for beside its group: a dependency that is well.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/schemas"
)

// Health is known by what went wrong alone: nobody writes down a call that went well.
// An attempt that is answered as permanent is the task's failure, not the dependency's.
const illnesses = `
select (select extract(epoch from clock_timestamp() - max(at))::float8 from perdure.events
  where (type = 'waiting' and data ->> 'reason' = 'breaker' or type = 'breaker_closed') and type = 'waiting'
    and data ->> 'kind' = any($1::text[]) and at > clock_timestamp() - $2::interval),
  (select extract(epoch from clock_timestamp() - max(last_seen))::float8 from perdure.group_rows
  where kind = any($1::text[]) and reason in ('exhausted', 'unknown') and last_seen > clock_timestamp() - $2::interval)`

// ill says why a policy's dependency is not taken for well yet, "" = it is, or none
// is waited for.
func ill(ctx context.Context, db *pgxpool.Pool, cat *schemas.Catalog, pol *schemas.Policy) (string, error) {
	w := &pol.Wait
	if w.Dependency == "" {
		return "", nil
	}
	var kinds []string
	for name, k := range cat.Kinds {
		if k.Dependency == w.Dependency {
			kinds = append(kinds, name)
		}
	}
	slices.Sort(kinds)
	open, err := breakersOpen(ctx, db)
	if err != nil {
		return "", err
	}
	must := fmt.Sprintf("; %s must be well for %s", w.Dependency, w.Healthy)
	for _, kind := range kinds {
		if b, is := open[kind]; is {
			return "a breaker is open, " + b.says(cat) + must, nil
		}
	}
	var breaker, death *float64
	if err := db.QueryRow(ctx, illnesses, kinds, w.Healthy).Scan(&breaker, &death); err != nil {
		return "", fmt.Errorf("look at the health of %s: %w", w.Dependency, err)
	}
	ago := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)).Round(time.Second) }
	switch {
	case breaker != nil:
		return fmt.Sprintf("a breaker of its kinds was open %s ago%s", ago(*breaker), must), nil
	case death != nil:
		return fmt.Sprintf("a task that calls it ran out of attempts, or was left in doubt, %s ago%s", ago(*death), must), nil
	}
	return "", nil
}
