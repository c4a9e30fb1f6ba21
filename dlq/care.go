package dlq

// What people say of a failure group: that somebody is on it, that it may be
// quiet, that it is mended; whose it is, and what to do.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
)

// Care is what was last said of a group; the zero Care of a group of which
// nothing was said, besides its State.
type Care struct {
	State     string     `json:"state" enum:"open,acknowledged,muted,resolved,regressed" doc:"regressed: resolved, and seen again in a release after it: the one that was named, else the newest, or one in which letters began to die later"`
	StateAt   *time.Time `json:"state_at,omitempty"`
	Until     *time.Time `json:"until,omitempty" doc:"muted until then; absent = until somebody says otherwise"`
	Owner     string     `json:"owner,omitempty"`
	Note      string     `json:"note,omitempty"`
	Runbook   string     `json:"runbook,omitempty"`
	Who       string     `json:"who,omitempty" doc:"said it last"`
	ChangedAt *time.Time `json:"changed_at,omitempty"`
}

// CareChange changes what is said of a group; what is nil stays.
type CareChange struct {
	State   *string    `json:"state,omitempty" enum:"open,acknowledged,muted,resolved"`
	Until   *time.Time `json:"until,omitempty" doc:"with state muted: until then; absent = until somebody says otherwise"`
	Release *string    `json:"release,omitempty" minLength:"1" maxLength:"256" doc:"with state resolved: the first release in which the cause is mended"`
	Owner   *string    `json:"owner,omitempty" maxLength:"200"`
	Note    *string    `json:"note,omitempty" maxLength:"4000" doc:"what is known, in plain text"`
	Runbook *string    `json:"runbook,omitempty" maxLength:"2000" doc:"an http or https address; empty takes it away"`
	Why     string     `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
}

// acts are the states' names in the audit.
var acts = map[string]string{"open": "group.reopen", "acknowledged": "group.acknowledge", "muted": "group.mute", "resolved": "group.resolve"}

// wrong says what of the change cannot be.
func (c *CareChange) wrong(now time.Time) (list []api.FieldError) {
	say := func(pointer, detail string) { list = append(list, api.FieldError{Pointer: pointer, Detail: detail}) }
	if c.State == nil && c.Owner == nil && c.Note == nil && c.Runbook == nil {
		say("#", "give state, owner, note or runbook")
	}
	if c.Until != nil {
		switch {
		case c.State == nil || *c.State != "muted":
			say("#/until", "is only for the state muted")
		case !c.Until.After(now):
			say("#/until", "is past")
		case c.Until.Year() > 9999:
			say("#/until", "is too far ahead")
		}
	}
	if c.Release != nil && (c.State == nil || *c.State != "resolved") {
		say("#/release", "is only for the state resolved")
	}
	if c.Runbook != nil && *c.Runbook != "" {
		if u, err := url.Parse(*c.Runbook); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			say("#/runbook", "must be an http or https address")
		}
	}
	return list
}

// Nothing orders releases but when letters died in them. What stands in releases when a
// group is resolved are those without the mend, in which it may die on: those in which a
// letter of any group had died before one had in the release that is named; all, where
// none had in that. Where none is named the newest may have the mend, if no letter of the
// group died in it: then those in which no letter died any more once one had in the newest.
const changeCare = `
with r as (
  select release, min(first_seen) as first, max(last_seen) as last, coalesce(sum(n) filter (where fingerprint = $1), 0) > 0 as own
  from perdure.group_release_rows group by 1 having sum(n) > 0)
insert into perdure.failure_groups as c (fingerprint, state, until, owner, note, runbook, who, releases)
values ($1, coalesce($2, 'open'), $3, coalesce($4, ''), coalesce($5, ''), coalesce($6, ''), $7,
  case when $2 = 'resolved' then (select coalesce(array_agg(release), '{}') from r where case when $8::text is null
    then own or last < (select max(first) from r)
    else release <> $8 and not exists (select from r o where o.release = $8 and o.first <= r.first) end) else '{}' end)
on conflict (fingerprint) do update set
  state = coalesce($2, c.state), owner = coalesce($4, c.owner), note = coalesce($5, c.note), runbook = coalesce($6, c.runbook),
  state_at = case when $2::text is null then c.state_at else clock_timestamp() end,
  until = case when $2::text is null then c.until else $3 end,
  releases = case when $2::text is null then c.releases else excluded.releases end,
  who = $7, changed_at = clock_timestamp()`

// Change says of a group what c says, in the name of who. The error is ErrNoGroup
// if no letter has that fingerprint.
func (s *Letters) Change(ctx context.Context, fingerprint, who string, c *CareChange) error {
	if err := s.db.QueryRow(ctx, `select perdure.group_of($1)`, fingerprint).Scan(&fingerprint); err != nil { // it may be merged into another
		return fmt.Errorf("change group %s: %w", fingerprint, err)
	}
	details, err := json.Marshal(struct {
		Group string `json:"group"`
		*CareChange
		Why string `json:"why,omitempty"` // has its own column
	}{Group: fingerprint, CareChange: c})
	if err != nil {
		return fmt.Errorf("change group %s: %w", fingerprint, err)
	}
	what := "group.note"
	if c.State != nil {
		what = acts[*c.State]
	}
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		var known bool
		err := tx.QueryRow(ctx, `select exists (select from perdure.letter_states where fingerprint = $1)`, fingerprint).Scan(&known)
		if err != nil {
			return fmt.Errorf("change group %s: %w", fingerprint, err)
		}
		if !known {
			return ErrNoGroup
		}
		if _, err := tx.Exec(ctx, changeCare, fingerprint, c.State, c.Until, c.Owner, c.Note, c.Runbook, who, c.Release); err != nil {
			return fmt.Errorf("change group %s: %w", fingerprint, err)
		}
		if _, err := tx.Exec(ctx, `insert into perdure.audit (who, what, why, details, origin) values ($1, $2, $3, $4, perdure.audit_origin($5))`,
			who, what, c.Why, details, api.Caller(ctx)); err != nil {
			return fmt.Errorf("change group %s: %w", fingerprint, err)
		}
		return nil
	})
}
