package dlq

// What causes say: one normalised text a cause, so that letters are found by the
// text of their error without reading them.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxTexts  = 32      // of one cause; only one that a handler named itself has more than one
	knownMost = 100_000 // texts that an index remembers to have written
)

type groupText struct{ fingerprint, text string }

// textSum stands for a groupText, which may be 2 KiB.
type textSum [16]byte

func (g groupText) sum() (s textSum) {
	sum := sha256.Sum256([]byte(g.fingerprint + "\x00" + g.text))
	copy(s[:], sum[:])
	return s
}

// causeText is what is searched of a letter.
func causeText(errorClass, message string) string {
	return Clip(Normalize(errorClass)+": "+Normalize(message), 2*maxNormal)
}

// Says reports whether an error has a text, as Filter.Text is compared.
func Says(errorClass, message, text string) bool {
	return strings.Contains(causeText(errorClass, message), Normalize(text))
}

const insertTexts = `
insert into perdure.group_texts (fingerprint, text)
select f, x from (select f, x, row_number() over (partition by f order by x) as n from unnest($1::text[], $2::text[]) t(f, x)) u
where n + (select count(*) from perdure.group_texts g where g.fingerprint = f) <= $3
on conflict do nothing`

// texts are those that are written, as far as this process knows.
type texts struct {
	mu    sync.Mutex
	known map[textSum]struct{}
}

func (t *texts) fresh(letters []letterRow) (fresh []groupText) {
	all, sums := make([]groupText, len(letters)), make([]textSum, len(letters))
	for i := range letters {
		l := &letters[i]
		all[i] = groupText{l.Fingerprint, causeText(l.ErrorClass, l.Message)}
		sums[i] = all[i].sum()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, g := range all {
		if _, known := t.known[sums[i]]; !known {
			fresh = append(fresh, g)
		}
	}
	return fresh
}

func (t *texts) add(list []groupText) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known)+len(list) > knownMost {
		t.known = map[textSum]struct{}{}
	}
	for _, g := range list {
		t.known[g.sum()] = struct{}{}
	}
}

// fileTexts writes the texts of a batch's causes that are new. It is a statement of
// its own, before the letters: a text without a letter harms nobody, and no two
// batches wait for each other's.
func (x *Index) fileTexts(ctx context.Context, b *batch) error {
	fresh := x.texts.fresh(b.letters)
	if err := writeTexts(ctx, x.deps.DB, fresh); err != nil {
		return err
	}
	x.texts.add(fresh)
	return nil
}

func writeTexts(ctx context.Context, db *pgxpool.Pool, fresh []groupText) error {
	if len(fresh) == 0 {
		return nil
	}
	slices.SortFunc(fresh, func(a, b groupText) int {
		return cmp.Or(strings.Compare(a.fingerprint, b.fingerprint), strings.Compare(a.text, b.text))
	})
	fresh = slices.Compact(fresh)
	fps, texts := make([]string, len(fresh)), make([]string, len(fresh))
	for i, g := range fresh {
		fps[i], texts[i] = g.fingerprint, g.text
	}
	if _, err := db.Exec(ctx, insertTexts, fps, texts, maxTexts); err != nil {
		return fmt.Errorf("index the texts of %d causes: %w", len(fresh), err)
	}
	return nil
}

// One letter of each cause that has no text yet, by steps from cause to cause.
const untold = `
with recursive f(fp) as (
  select min(fingerprint) from perdure.letter_states
  union all
  select (select min(d.fingerprint) from perdure.letter_states d where d.fingerprint > f.fp) from f where f.fp is not null)
select l.fingerprint, l.error_class, l.message from f cross join lateral (
  select coalesce(s.joined_from, s.fingerprint) as fingerprint, d.error_class, d.message from perdure.letter_states s join perdure.letters d on d.letter = s.letter
  where s.fingerprint = f.fp limit 1) l
where not exists (select from perdure.group_texts g where g.fingerprint = l.fingerprint) limit $1`

// untoldAtOnce bounds what is read at once.
const untoldAtOnce = 1000

// tellTexts writes the texts of causes that an index before this table filed.
func (x *Index) tellTexts(ctx context.Context) error {
	for {
		rows, err := x.deps.DB.Query(ctx, untold, untoldAtOnce)
		if err != nil {
			return fmt.Errorf("look for causes without a text: %w", err)
		}
		list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g groupText, err error) {
			var class, message string
			err = r.Scan(&g.fingerprint, &class, &message)
			g.text = causeText(class, message)
			return g, err
		})
		if err != nil {
			return fmt.Errorf("look for causes without a text: %w", err)
		}
		if err := writeTexts(ctx, x.deps.DB, list); err != nil || len(list) < untoldAtOnce {
			return err
		}
	}
}

// maxTextGroups is how many causes a search may find: of each a page is read.
const maxTextGroups = 500

// One row a cause: several may be one group.
const findTexts = `
select perdure.group_of(fingerprint) from (
  select distinct fingerprint from perdure.group_texts where text like $1 limit $2) t`

// groups are the groups that f means, nil for all. Of a group that was joined to
// another, the other's letters.
func (s *Letters) groups(ctx context.Context, f *Filter) ([]string, error) {
	sql, args := `select perdure.group_of($1)`, []any{f.Group}
	switch {
	case f.Text == "" && f.Group == "":
		return nil, nil
	case f.Text != "":
		sql, args = findTexts, []any{"%" + likeText(Normalize(f.Text)) + "%", maxTextGroups + 1}
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("find failure groups: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("find failure groups: %w", err)
	}
	if len(list) > maxTextGroups {
		return nil, ErrVague
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if f.Text != "" && f.Group != "" {
		at, err := s.groups(ctx, &Filter{Group: f.Group})
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(g string) bool { return g != at[0] })
	}
	return append([]string{}, list...), nil // none is not all
}

// likeText has LIKE take a text as it stands.
func likeText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}
