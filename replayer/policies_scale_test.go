package replayer

// Policies beside many failure groups.

import (
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

// manyGroups puts n groups of so many letters each into the index.
func (r *rig) manyGroups(n, letters int) {
	r.t.Helper()
	r.exec(`insert into perdure.dead_letters (letter, task_id, kind, queue, reason, error_class, message, fingerprint,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, 'idem', 'payments', 'exhausted', 'HTTP 503', 'shard ' || i % $1 || ' is down',
  'fp1:' || i % $1, 't', 0, i, 'd', 0, i, now() - interval '1 day' + i * interval '1 ms' from generate_series(1, $2::int) i`, n, n*letters)
	r.exec(`select perdure.fold_groups(10000000)`)
	r.exec(`vacuum analyze perdure.letters, perdure.letter_states, perdure.group_counts, perdure.group_changes`)
}

// go test -bench PolicyLook -run '^$' ./replayer
func BenchmarkPolicyLook(b *testing.B) {
	r := newRig(b)
	p := r.policies(func(p *schemas.Policy) { p.Wait.Quiet = 1000 * time.Hour })
	r.manyGroups(10_000, 30)
	for range 2 { // makes its row, and finds that they wait
		p.open = p.letters(b.Context())
		if err := p.look(b.Context(), p.deps.Catalog.Policies["mend"]); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range b.N {
		p.open = p.letters(b.Context())
		if err := p.look(b.Context(), p.deps.Catalog.Policies["mend"]); err != nil {
			b.Fatal(err)
		}
	}
}

// With many groups a look reads much: it is done where it may find something.
func TestAPolicyLooksWhereSomethingMayHaveChanged(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(func(p *schemas.Policy) { p.Wait.Quiet, p.DryRun = time.Hour, true })
	pol := p.deps.Catalog.Policies["mend"]
	looks := func(open string) bool {
		t.Helper()
		before := p.last["mend"]
		before.not = time.Time{} // that is measured below
		p.last["mend"] = before
		p.open = open
		if err := p.look(t.Context(), pol); err != nil {
			t.Fatal(err)
		}
		return p.last["mend"].until != before.until
	}
	now := func() string { return p.letters(t.Context()) }
	if err := p.look(t.Context(), pol); err != nil { // makes its row
		t.Fatal(err)
	}
	if !looks(now()) || looks(now()) {
		t.Fatal("the first look is the only one")
	}
	if n := r.count(`select count(*) from perdure.group_changes`); n == 0 {
		t.Fatal("nothing is there to be added up")
	}
	r.exec(`select perdure.fold_groups(1000)`)
	if looks(now()) {
		t.Error("it looked again because counts were added up")
	}
	if !looks("") {
		t.Error("it did not look where nobody knows what changed")
	}
	looks(now()) // which is another standing than that
	for what, change := range map[string]string{
		"a death":             `insert into perdure.dead_letters select (jsonb_populate_record(d, '{"letter": "main-1-9@0"}')).* from perdure.dead_letters d where letter = 'main-1-1@0'`,
		"a decision":          `update perdure.dead_letters set state = 'held' where letter = 'main-1-2@0'`,
		"a group for another": `update perdure.dead_letters set fingerprint = 'fp1:bb' where letter = 'main-1-3@0'`,
		"a person":            `update perdure.policies set changed_at = clock_timestamp()`,
	} {
		r.exec(change)
		if !looks(now()) || looks(now()) {
			t.Errorf("%s: it did not look once", what)
		}
	}
	// What becomes due by the clock.
	began := time.Now()
	p.found(pol, &standing{}, []PolicyGroup{{Waits: "w", due: 5 * time.Second}, {Waits: "w", due: 3 * time.Second}, {Waits: "w"}}, began)
	if got := p.last["mend"].until.Sub(began); got != 3*time.Second {
		t.Errorf("due after %s, want 3s", got)
	}
	for name, g := range map[string]PolicyGroup{"acts": {}, "waits for a dependency": {Waits: "w", again: true}} {
		p.found(pol, &standing{}, []PolicyGroup{g}, began)
		if p.unchanged(pol, &standing{}, p.last["mend"].not) {
			t.Errorf("a policy that %s does not look again", name)
		}
	}
	// A look that took long is not followed by the next at once.
	p.found(pol, &standing{}, nil, time.Now().Add(-time.Second))
	if at := time.Now(); !p.unchanged(pol, &standing{strikes: 9}, at.Add(8*time.Second)) || p.unchanged(pol, &standing{strikes: 9}, at.Add(12*time.Second)) {
		t.Error("the next look is not ten times as long away as the last took")
	}
}
