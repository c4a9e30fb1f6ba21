package replayer

// What a policy waits for beside its group: workers of a newer release.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// LiveWorker is a worker that beats, and what it says of itself.
type LiveWorker struct {
	Name    string
	Release string // PERDURE_RELEASE; "" = not known
	Queues  []string
}

// sightEvery is how often running releases are written down where no policy asks for them.
const sightEvery = 10 * time.Second

// A release began when it was first seen to run, or when the first letter died in it,
// if that was earlier. Those of which nobody has heard for very long are forgotten.
const sightReleases = `
with old as (delete from perdure.releases where seen_at < clock_timestamp() - interval '2 years' and release <> all ($1::text[]))
insert into perdure.releases as r (release, began_at)
select l, least(statement_timestamp(), (select min(first_seen) from perdure.group_release_rows where release = l)) from unnest($1::text[]) l
where not exists (select from perdure.releases s where s.release = l and s.seen_at > clock_timestamp() - interval '1 hour')
on conflict (release) do update set began_at = least(r.began_at, excluded.began_at), seen_at = excluded.seen_at`

// sight writes down which releases run.
func (p *Policies) sight(ctx context.Context) ([]LiveWorker, error) {
	if p.deps.Workers == nil {
		return nil, nil
	}
	workers, err := p.deps.Workers(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask which releases run: %w", err)
	}
	var releases []string
	for _, w := range workers {
		if w.Release != "" && !slices.Contains(releases, w.Release) {
			releases = append(releases, w.Release)
		}
	}
	if len(releases) > 0 {
		if _, err := p.deps.DB.Exec(ctx, sightReleases, releases); err != nil {
			return nil, fmt.Errorf("write down which releases run: %w", err)
		}
	}
	return workers, nil
}

// sightSometimes is sight for what policies may ask later.
func (p *Policies) sightSometimes(ctx context.Context) {
	if now := time.Now(); now.Sub(p.sighted) >= sightEvery {
		p.sighted = now
		if _, err := p.sight(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("policies: it is not written down which releases run; tries again", "err", err)
		}
	}
}

// A release in which letters of the group died ran when the first of them did, where no
// worker told of it. Where none is known, the latest death is what a release is newer than.
const releasesOfGroups = `
with g as (
  select fingerprint, array_agg(distinct queue) as queues, max(last_seen) as last from perdure.groups_now where fingerprint = any($1) and state = 'open' group by 1),
own as (
  select fingerprint, release, coalesce(least(r.began_at, d.first), '-infinity') as began
  from (select fingerprint, release, min(first_seen) as first from perdure.group_release_rows where fingerprint = any($1) group by 1, 2 having sum(n) > 0) d
  left join perdure.releases r using (release)),
latest as (select distinct on (fingerprint) fingerprint, release, began from own order by fingerprint, began desc, release),
live as (
  select l.*, r.began_at as began from unnest($2::text[], $3::text[], $4::text[]) l (worker, queue, release) join perdure.releases r using (release))
select g.fingerprint, coalesce(o.release, ''), coalesce(still.worker, ''), coalesce(still.release, ''),
  coalesce((select q from unnest(g.queues) q where not exists (
    select from live where live.queue = q and live.began > coalesce(o.began, g.last)) order by q limit 1), '')
from g left join latest o using (fingerprint)
left join lateral (
  select live.worker, live.release from live join own using (release)
  where own.fingerprint = g.fingerprint and live.queue = any(g.queues) order by 1 limit 1) still on true`

// unreleased says of each group why no release is taken for its mend yet; those that are
// not in it wait for none. Until a roll-out is over letters would also go to workers of
// the release that they died in.
func (p *Policies) unreleased(ctx context.Context, groups []PolicyGroup) (map[string]string, error) {
	waits := map[string]string{}
	workers, err := p.sight(ctx)
	if err != nil || p.deps.Workers == nil {
		why := "nobody here knows which releases run"
		if err != nil {
			why += ": " + err.Error()
		}
		for i := range groups {
			waits[groups[i].Group] = why
		}
		return waits, nil
	}
	var names, queues, releases, ids []string
	for _, w := range workers {
		for _, q := range w.Queues {
			if w.Release != "" {
				names, queues, releases = append(names, w.Name), append(queues, q), append(releases, w.Release)
			}
		}
	}
	for i := range groups {
		ids = append(ids, groups[i].Group)
	}
	rows, err := p.deps.DB.Query(ctx, releasesOfGroups, ids, names, queues, releases)
	if err != nil {
		return nil, fmt.Errorf("compare releases: %w", err)
	}
	var group, own, worker, still, queue string
	if _, err := pgx.ForEachRow(rows, []any{&group, &own, &worker, &still, &queue}, func() error {
		switch {
		case worker != "":
			waits[group] = fmt.Sprintf("worker %s still runs release %s, in which letters of it died", worker, still)
		case queue != "" && !slices.Contains(queues, queue):
			waits[group] = fmt.Sprintf("no worker of queue %s says which release it runs (PERDURE_RELEASE)", queue)
		case queue != "" && own == "":
			waits[group] = fmt.Sprintf("no worker of queue %s runs a release that began after its latest death; its letters name none", queue)
		case queue != "":
			waits[group] = fmt.Sprintf("no worker of queue %s runs a release newer than %s, in which letters of it died", queue, own)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("compare releases: %w", err)
	}
	return waits, nil
}
