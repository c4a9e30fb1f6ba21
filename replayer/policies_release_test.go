package replayer

// Policies that wait for workers of a newer release.

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/perdure/perdure/schemas"
)

func TestAPolicyWaitsForANewerRelease(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	r.exec(`update perdure.dead_letters set release = 'v1'`)
	p := r.policies(func(p *schemas.Policy) { p.Wait.NewRelease = true })
	var workers []LiveWorker
	var away error
	worker := func(name, release string, queues ...string) LiveWorker {
		return LiveWorker{Name: name, Release: release, Queues: queues}
	}
	waits := func(why string, live ...LiveWorker) {
		t.Helper()
		workers = live
		r.looks(p, 2)
		v := r.policy(p)
		if n := r.count(`select count(*) from perdure.replays`); n != 0 || !strings.Contains(v.Groups[0].Waits, why) {
			t.Errorf("%v: %d replays, %+v; want it to wait: %s", live, n, v.Groups, why)
		}
	}
	waits("nobody here knows which releases run")
	p.deps.Workers = func(context.Context) ([]LiveWorker, error) { return workers, away }
	away = errors.New("redis is away")
	waits("nobody here knows which releases run: ask which releases run: redis is away")
	away = nil
	const silent, still, none = "no worker of queue payments says which release it runs", "worker w1 still runs release v1", "no worker of queue payments runs a release newer than v1"
	waits(silent)
	waits(silent, worker("w1", "", "payments"))
	waits(silent, worker("w1", "v2", "mail"))
	r.exec(`delete from perdure.releases`)
	waits(still, worker("w1", "v1", "mail", "payments"))
	waits(still, worker("w1", "v1", "payments"), worker("w2", "v2", "payments")) // a roll-out
	// Releases that are older, by when they ran, and by the deaths in them.
	r.exec(`insert into perdure.releases values ('v0', now() - interval '1 day')`)
	r.exec(`update perdure.releases set began_at = now() - interval '2 hours' where release = 'v1'`)
	waits(none, worker("w1", "v0", "payments"))
	r.letters(9, 9, nil)
	r.exec(`update perdure.dead_letters set release = 'v0.1', fingerprint = 'fp1:bb', kind = 'fence', died_at = now() - interval '9 hours' where letter = 'main-1-9@0'`)
	waits(none, worker("w1", "v0.1", "payments"))
	// Two that were first seen at once: nobody knows.
	r.exec(`update perdure.releases set began_at = '2020-01-01' where release in ('v1', 'v2')`)
	waits(none, worker("w2", "v2", "payments"))
	r.exec(`update perdure.releases set began_at = case release when 'v2' then now() else now() + interval '1 day' end where release in ('v1', 'v2')`) // v1 was seen late: letters had died in it
	workers = []LiveWorker{worker("w0", "", "payments"), worker("w1", "v1", "mail"), worker("w2", "v2", "payments")}
	r.looks(p, 1)
	if n := r.count(`select count(*) from perdure.replays where letters = 3`); n != 1 {
		t.Errorf("%d replays once a newer release runs: %+v", n, r.policy(p).Groups)
	}
}

// Where no letter names a release, a newer one is one that began after the latest death.
func TestAPolicyOfLettersWithoutAReleaseWaitsForOneThatBeganLater(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(func(p *schemas.Policy) { p.Wait.NewRelease = true })
	p.deps.Workers = func(context.Context) ([]LiveWorker, error) {
		return []LiveWorker{{Name: "w", Release: "v7", Queues: []string{"payments"}}}, nil
	}
	r.exec(`insert into perdure.releases values ('v7', now() - interval '1 day')`)
	r.looks(p, 2)
	if v := r.policy(p); r.count(`select count(*) from perdure.replays`) != 0 || !strings.Contains(v.Groups[0].Waits, "began after its latest death") {
		t.Errorf("%+v", v.Groups)
	}
	r.exec(`update perdure.releases set began_at = now()`)
	r.looks(p, 1)
	if n := r.count(`select count(*) from perdure.replays`); n != 1 {
		t.Errorf("%d replays: %+v", n, r.policy(p).Groups)
	}
}

// What runs is kept, also where no policy asks: which of two was there first is known later.
func TestReleasesThatRunAreWrittenDown(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, nil)
	r.exec(`update perdure.dead_letters set release = 'v1', died_at = '2020-01-01'`)
	p := r.policies(nil)
	p.deps.Workers = func(context.Context) ([]LiveWorker, error) {
		return []LiveWorker{{Release: "v1"}, {Release: "v2"}, {Release: "v2"}, {Release: ""}}, nil
	}
	p.sightSometimes(t.Context())
	if n := r.count(`select count(*) from perdure.releases where release = 'v1' and began_at = '2020-01-01' or release = 'v2' and began_at > now() - interval '1 minute'`); n != 2 || r.count(`select count(*) from perdure.releases`) != 2 {
		t.Errorf("%d of 2 releases", n)
	}
	r.exec(`update perdure.releases set began_at = '2021-01-01', seen_at = now() - interval '3 years'`)
	r.exec(`insert into perdure.releases values ('old', '2019-01-01', '2019-01-01')`)
	p.sightSometimes(t.Context()) // too soon
	if n := r.count(`select count(*) from perdure.releases where seen_at < now() - interval '1 hour'`); n != 3 {
		t.Error("it looked again at once")
	}
	p.sighted = p.sighted.Add(-sightEvery)
	p.sightSometimes(t.Context())
	if n := r.count(`select count(*) from perdure.releases where seen_at > now() - interval '1 minute' and began_at = case release when 'v1' then '2020-01-01' else '2021-01-01' end::timestamptz`); n != 2 || r.count(`select count(*) from perdure.releases`) != 2 {
		t.Errorf("%d of 2 releases are kept as they were", n)
	}
}
