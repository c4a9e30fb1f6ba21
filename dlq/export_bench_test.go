package dlq

// What a list and an export of a state cost where there are many failure groups:
//
//	go test ./dlq -run - -bench Groups -benchtime 1x

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

const (
	benchLetters = 600_000
	benchExport  = 40_000 // letters of an export that are waited for
)

// The same letters each time, over seven days; a third of them of each of three states.
const benchFill = `
with f as materialized (
  select 'main-1-' || i || '@0' as letter, 'main-1-' || i as task, (array['open', 'held', 'resolved'])[1 + (hashint8extended(i, 1) & 65535) % 3] as state,
    'fp1:' || (hashint8extended(i, 2) & 2147483647) % $2::int as fp, timestamptz '2026-05-01' - i * interval '1 s' as died, i from generate_series(1, $1::int) i),
l as (
  insert into perdure.letters (letter, task_id, kind, queue, reason, payload, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
  select letter, task, 'k', 'q', 'permanent', convert_to(repeat(md5(i::text), 8), 'UTF8'), 't', 0, i, 'd', 0, i, died from f order by died)
insert into perdure.letter_states (letter, state, fingerprint, died_at, kind, queue, reason)
select letter, state, fp, died, 'k', 'q', 'permanent' from f order by died`

func benchIndex(b *testing.B, groups int) *pgxpool.Pool {
	b.Helper()
	db, err := pg.Pool(b.Context(), testkit.MigratedPostgres(b).URL)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(db.Close)
	for _, sql := range []string{`alter table perdure.letter_states disable trigger user`, ``, `alter table perdure.letter_states enable trigger user`,
		`select perdure.recount_groups()`, `vacuum (analyze) perdure.letters, perdure.letter_states, perdure.group_counts, perdure.group_changes`} {
		var args []any
		if sql == "" {
			sql, args = benchFill, []any{benchLetters, groups}
		}
		if _, err := db.Exec(b.Context(), sql, args...); err != nil {
			b.Fatalf("%.60s: %v", sql, err)
		}
	}
	return db
}

func BenchmarkGroups(b *testing.B) {
	for _, groups := range []int{1000, 50_000} {
		b.Run(fmt.Sprint(groups), func(b *testing.B) {
			letters := NewLetters(benchIndex(b, groups))
			b.Run("page", func(b *testing.B) {
				for b.Loop() {
					if list, _, err := letters.List(b.Context(), Filter{State: "held"}, "", 100); err != nil || len(list) != 100 {
						b.Fatal(len(list), err)
					}
				}
			})
			b.Run("twentieth", func(b *testing.B) {
				cursor := ""
				for range 19 {
					_, next, err := letters.List(b.Context(), Filter{State: "held"}, cursor, 100)
					if err != nil {
						b.Fatal(err)
					}
					cursor = next
				}
				for b.Loop() {
					if list, _, err := letters.List(b.Context(), Filter{State: "held"}, cursor, 100); err != nil || len(list) != 100 {
						b.Fatal(len(list), err)
					}
				}
			})
			b.Run("export", func(b *testing.B) {
				enough := errors.New("enough")
				for b.Loop() {
					n, began := 0, time.Now()
					if err := letters.Each(b.Context(), Filter{State: "held"}, func(*Entry) error {
						if n++; n == benchExport || time.Since(began) > 8*time.Second {
							return enough
						}
						return nil
					}); !errors.Is(err, enough) {
						b.Fatal(n, err)
					}
					b.ReportMetric(float64(time.Since(began).Microseconds())/float64(n), "µs/letter")
				}
			})
		})
	}
}
