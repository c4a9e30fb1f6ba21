package dlq

// A cause that has a group by the algorithm before keeps it: what people say of the
// group, what they merged into it, and its count go on.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A group is there if it has letters, or if people said something of it or joined it.
const knownGroups = `
select f, said from (
  select f, exists (select from perdure.failure_groups where fingerprint = f) or exists (select from perdure.group_aliases where fingerprint = f and into_group is not null) as said
  from unnest($1::text[]) f) g
where said or exists (select from perdure.letter_states where fingerprint = f) or exists (select from perdure.letter_states where joined_from = f)`

// succeed gives letters the fingerprint by which their cause is known here: the first
// version's, where there is such a group, and people did not speak of the present one's
// instead, as they may while workers of both versions run.
func (x *Index) succeed(ctx context.Context, b *batch) error {
	type group struct{ known, said bool }
	groups := map[string]group{}
	newer := false
	for i := range b.letters {
		l := &b.letters[i]
		if !strings.HasPrefix(l.Fingerprint, fingerprintVersion) {
			groups[l.Fingerprint] = group{known: true} // by a worker of an older version
			continue
		}
		newer = true
		l.first = firstFingerprint(l.Kind, l.ErrorClass, l.Message, lastFrame(l.Attempts))
		for _, f := range []string{l.first, l.Fingerprint} {
			if _, there := groups[f]; !there {
				groups[f] = group{}
			}
		}
	}
	if !newer {
		return nil
	}
	rows, err := x.deps.DB.Query(ctx, knownGroups, slices.Sorted(maps.Keys(groups)))
	if err != nil {
		return fmt.Errorf("look for groups by their older names: %w", err)
	}
	var f string
	var said bool
	if _, err := pgx.ForEachRow(rows, []any{&f, &said}, func() error {
		groups[f] = group{true, said}
		return nil
	}); err != nil {
		return fmt.Errorf("look for groups by their older names: %w", err)
	}
	for i := range b.letters {
		l := &b.letters[i]
		if l.first == "" {
			continue
		}
		if first, present := groups[l.first], groups[l.Fingerprint]; first.known && (first.said || !present.said) {
			l.Fingerprint = l.first
		}
	}
	return nil
}
