package dlq

// A cause that has a group by the algorithm before keeps it: what people say of the
// group, what they merged into it, and its count go on.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A group is there if it has letters, or if people said something of it or joined it.
const knownGroups = `
select f from unnest($1::text[]) f
where exists (select from perdure.dead_letters where fingerprint = f) or exists (select from perdure.dead_letters where joined_from = f)
  or exists (select from perdure.failure_groups where fingerprint = f) or exists (select from perdure.group_aliases where fingerprint = f and into_group is not null)`

// succeed gives letters the fingerprint by which their cause is known here, if the
// first version's is and theirs is the present one's.
func (x *Index) succeed(ctx context.Context, b *batch) error {
	known := map[string]bool{} // by the first version's name
	own := map[string]bool{}   // of the batch, by a worker of an older version
	for i := range b.letters {
		l := &b.letters[i]
		own[l.Fingerprint] = true
		if strings.HasPrefix(l.Fingerprint, fingerprintVersion) {
			l.first = firstFingerprint(l.Kind, l.ErrorClass, l.Message, lastFrame(l.Attempts))
			known[l.first] = false
		}
	}
	if len(known) == 0 {
		return nil
	}
	for f := range known {
		known[f] = own[f]
	}
	ask := slices.Sorted(maps.Keys(known))
	rows, err := x.deps.DB.Query(ctx, knownGroups, ask)
	if err != nil {
		return fmt.Errorf("look for groups by their older names: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var f string
		if err := rows.Scan(&f); err != nil {
			return fmt.Errorf("look for groups by their older names: %w", err)
		}
		known[f] = true
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("look for groups by their older names: %w", err)
	}
	for i := range b.letters {
		if l := &b.letters[i]; known[l.first] {
			l.Fingerprint = l.first
		}
	}
	return nil
}
