package main

// First pages of the large index, the pages behind them, and failure groups.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dlq"
)

// pageGoal is what a page may take.
const pageGoal = 200 * time.Millisecond

// pagePatience is how long a page is waited for.
const pagePatience = 5 * time.Second

// question is asked of the large index.
type question struct {
	name string
	f    dlq.Filter
}

// questions are about what is frequent, and about what is rare.
func (b *lettersBench) questions(ctx context.Context, pool *pgxpool.Pool) (list []question, latest time.Time, err error) {
	many, err := causeOf(0)
	if err != nil {
		return nil, latest, err
	}
	few, err := causeOf(letterGroups - 1)
	if err != nil {
		return nil, latest, err
	}
	var key, rareKey string
	if err := pool.QueryRow(ctx, `select max(died_at) from perdure.letters`).Scan(&latest); err != nil {
		return nil, latest, err
	}
	if err := pool.QueryRow(ctx, `select (select key from perdure.letters where key = 'customer-0' limit 1),
  (select key from perdure.letters where key between 'customer-19' and 'customer-2' order by key desc limit 1)`).Scan(&key, &rareKey); err != nil {
		return nil, latest, err
	}
	return []question{
		{"all", dlq.Filter{}},
		{"group, the largest", dlq.Filter{Group: many.fingerprint}},
		{"group, the smallest", dlq.Filter{Group: few.fingerprint}},
		{"group, of a key", dlq.Filter{Group: many.fingerprint, Key: rareKey}},
		{"kind, the largest", dlq.Filter{Kind: kindName(0)}},
		{"kind, the smallest", dlq.Filter{Kind: kindName(letterKinds - 1)}},
		{"kind, its held ones", dlq.Filter{Kind: kindName(letterKinds - 1), State: "held"}},
		{"queue, the smallest", dlq.Filter{Queue: "q3"}},
		{"queue, one reason", dlq.Filter{Queue: "q0", Reason: "schema"}},
		{"key, the largest", dlq.Filter{Key: key}},
		{"key, a small one", dlq.Filter{Key: rareKey}},
		{"key, its open ones of a queue", dlq.Filter{Key: key, Queue: "q3", State: "open"}},
		{"time, the last hour", dlq.Filter{Since: latest.Add(-time.Hour)}},
		{"time, the last six days", dlq.Filter{Since: latest.Add(-6 * 24 * time.Hour)}},
		{"state open", dlq.Filter{State: "open"}},
		{"state replaying", dlq.Filter{State: "replaying"}},
		{"state resolved", dlq.Filter{State: "resolved"}},
		{"reason expired", dlq.Filter{Reason: "expired"}},
		{"reason that no letter has", dlq.Filter{Reason: "poison"}},
		{"error text of one group", dlq.Filter{Text: few.text[len(few.text)-80:]}},
		{"error text of many groups", dlq.Filter{Text: word(7)}},
		{"error text, open ones of a kind", dlq.Filter{Text: word(7), Kind: kindName(7), State: "open"}},
	}, latest, nil
}

func (b *lettersBench) runPages(ctx context.Context, srv servers) (string, error) {
	pool, err := b.filled(ctx, srv)
	if err != nil {
		return "", err
	}
	defer pool.Close()
	list, latest, err := b.questions(ctx, pool)
	if err != nil {
		return "", err
	}
	letters := dlq.NewLetters(pool)
	var s strings.Builder
	fmt.Fprintf(&s, "%d letters: %d queues, %d kinds, %d groups (the largest has a quarter of the letters), up to %d keys, %d days; pages of 100. The first time, then %d times: median (lowest–highest).\n\n",
		b.letters, letterQueues, letterKinds, letterGroups, letterKeys, letterDays, b.runs)
	s.WriteString("| a page by | letters | the first time, ms | again, ms | the next page, ms | the twentieth, ms |\n|---|---|---|---|---|---|\n")
	var slow []string
	for _, q := range list {
		t, n, err := b.pagesOf(ctx, letters, q.f)
		if errors.Is(err, context.DeadlineExceeded) {
			line := fmt.Sprintf("| %s | – | more than %.0f | – | – | – |\n", q.name, ms(pagePatience))
			fmt.Fprint(os.Stderr, line)
			s.WriteString(line)
			slow = append(slow, q.name)
			continue
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", q.name, err)
		}
		line := fmt.Sprintf("| %s | %d | %.1f | %s | %s | %s |\n", q.name, n, t.first, spreadOf(t.again).text("%.1f"), textOr(t.next), textOr(t.deep))
		fmt.Fprint(os.Stderr, line)
		s.WriteString(line)
		for _, took := range append(append(append([]float64{t.first}, t.again...), t.next...), t.deep...) {
			if took > ms(pageGoal) {
				slow = append(slow, q.name)
				break
			}
		}
	}
	groups, missed, err := b.groupTimes(ctx, letters, latest)
	if err != nil {
		return "", err
	}
	s.WriteString(groups)
	slow = append(slow, missed...)
	if len(slow) == 0 {
		s.WriteString("\nThe goal, 200 ms: every page was there.\n")
	} else {
		fmt.Fprintf(&s, "\nThe goal, 200 ms, was missed at least once by: %s.\n", strings.Join(slow, "; "))
	}
	return s.String(), nil
}

// groupTimes is the table of failure groups, and which of them took too long.
func (b *lettersBench) groupTimes(ctx context.Context, letters *dlq.Letters, latest time.Time) (table string, slow []string, err error) {
	var s strings.Builder
	s.WriteString("\n| failure groups | groups | the first time, ms | again, ms |\n|---|---|---|---|\n")
	for _, q := range []question{
		{"all", dlq.Filter{}}, {"open letters", dlq.Filter{State: "open"}}, {"kind, the smallest", dlq.Filter{Kind: kindName(letterKinds - 1)}},
		{"queue, the largest", dlq.Filter{Queue: "q0"}}, {"of an error's text", dlq.Filter{Text: word(7)}}, {"the last hour", dlq.Filter{Since: latest.Add(-time.Hour)}},
	} {
		var took []float64
		n := 0
		for range 1 + b.runs {
			patient, cancel := context.WithTimeout(ctx, 2*pagePatience)
			began := time.Now()
			groups, err := letters.Groups(patient, q.f, 100)
			cancel()
			took, n = append(took, ms(time.Since(began))), len(groups)
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			if err != nil {
				return "", nil, fmt.Errorf("groups, %s: %w", q.name, err)
			}
		}
		if n == 0 {
			line := fmt.Sprintf("| %s | – | more than %.0f | – |\n", q.name, ms(2*pagePatience))
			fmt.Fprint(os.Stderr, line)
			s.WriteString(line)
			slow = append(slow, "groups: "+q.name)
			continue
		}
		line := fmt.Sprintf("| %s | %d | %.0f | %s |\n", q.name, n, took[0], spreadOf(took[1:]).text("%.0f"))
		fmt.Fprint(os.Stderr, line)
		s.WriteString(line)
		if spreadOf(took).high > ms(pageGoal) {
			slow = append(slow, "groups: "+q.name)
		}
	}
	return s.String(), slow, nil
}

// pageTimes are in ms.
type pageTimes struct {
	first             float64
	again, next, deep []float64
}

func (b *lettersBench) pagesOf(ctx context.Context, letters *dlq.Letters, f dlq.Filter) (t pageTimes, n int, err error) {
	page := func(cursor string) (float64, int, string, error) {
		ctx, cancel := context.WithTimeout(ctx, pagePatience)
		defer cancel()
		began := time.Now()
		list, next, err := letters.List(ctx, f, cursor, 100)
		return ms(time.Since(began)), len(list), next, err
	}
	var cursor string
	if t.first, n, cursor, err = page(""); err != nil {
		return t, 0, err
	}
	for range b.runs {
		took, _, _, err := page("")
		if err != nil {
			return t, 0, err
		}
		t.again = append(t.again, took)
	}
	twentieth := cursor
	for range 18 {
		if twentieth == "" {
			break
		}
		if _, _, twentieth, err = page(twentieth); err != nil {
			return t, 0, err
		}
	}
	for range b.runs {
		if cursor != "" {
			took, _, _, err := page(cursor)
			if err != nil {
				return t, 0, err
			}
			t.next = append(t.next, took)
		}
		if twentieth != "" {
			took, _, _, err := page(twentieth)
			if err != nil {
				return t, 0, err
			}
			t.deep = append(t.deep, took)
		}
	}
	return t, n, nil
}

func textOr(v []float64) string {
	if len(v) == 0 {
		return "–"
	}
	return spreadOf(v).text("%.1f")
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
