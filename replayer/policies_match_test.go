package replayer

import (
	"testing"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// A pattern may be about what a fingerprint leaves out, as a quoted name.
func TestAPolicyFindsItsGroupBehindLettersOfAnotherText(t *testing.T) {
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(t.Context(), `insert into perdure.dead_letters (letter, task_id, kind, queue, reason, error_class, message, fingerprint,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, 'k', 'payments', 'exhausted', 'HTTP 503', 'host "bank-' || case when i <= 300 then 'a' else 'b' end || '" is down',
  'fp1:1', 't', 0, i, 'd', 0, i, now() - interval '1 day' + i * interval '1 second' from generate_series(1, 700) i`); err != nil {
		t.Fatal(err)
	}
	p, err := NewPolicies(PolicyConfig{}, PolicyDeps{DB: db, Catalog: catalog()})
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.matching(t.Context(), &schemas.Policy{Name: "p", When: schemas.PolicyMatch{Message: `*bank-a*`}, MaxReplays: 3}, 0)
	if err != nil || len(list) != 1 || list[0].Letters != 300 || list[0].Sample != "main-1-1@0" {
		t.Errorf("%+v %v", list, err)
	}
}

// Of one fingerprint, the other letters are older, and have the lower ids.
func TestAPolicyTouchesOnlyWhatItMatches(t *testing.T) {
	for _, action := range []string{"discard", "hold", "replay"} {
		t.Run(action, func(t *testing.T) {
			r := newRig(t)
			r.exec(`insert into perdure.dead_letters (letter, task_id, kind, queue, reason, error_class, message, fingerprint,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, case when i <= 50 then 'other' else 'idem' end, 'payments', 'exhausted',
  case when i > 50 and i <= 100 then 'HTTP 500' else 'HTTP 503' end, 'host "bank-' || case when i > 50 and i <= 400 then 'b' else 'a' end || '" is down',
  'fp1:1', 't', 0, i, 'd', 0, i, now() - interval '1 day' + i * interval '1 second' from generate_series(1, 700) i`)
			r.exec(`update perdure.dead_letters set message = 'host "bank-a" is down' where letter in (select 'main-1-' || i || '@0' from generate_series(51, 100) i)`)
			p := r.policies(func(p *schemas.Policy) {
				p.When, p.Action, p.PerHour = schemas.PolicyMatch{Kind: "id*", Class: "*503", Message: "*bank-a*"}, action, 1000
			})
			r.looks(p, 4)
			r.run(r.replayer("a", &known{}))
			if n := r.count(`select count(*) from perdure.dead_letters where state <> 'open' and (message not like '%bank-a%' or kind <> 'idem' or error_class <> 'HTTP 503')`); n != 0 {
				t.Errorf("it changed %d letters that it does not match", n)
			}
			touched := r.count(`select count(*) from perdure.dead_letters where state <> 'open'`)
			if action == "replay" {
				touched = r.count(`select count(*) from perdure.replay_letters rl join perdure.dead_letters d using (letter) where message like '%bank-a%' and kind = 'idem' and error_class = 'HTTP 503'`)
				if n := r.count(`select count(*) from perdure.replay_letters`); n != touched {
					t.Errorf("of %d letters in its plans %d match", n, touched)
				}
			}
			if touched != 300 {
				t.Errorf("it touched %d letters, want the 300 that it matches", touched)
			}
		})
	}
}
