package dlq

// Letters: what people ask of the index. It consumes nothing, so any process
// that serves the API may have one.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/schemas"
)

// Errors of Letters.
var (
	ErrNoLetter = errors.New("no such dead letter")
	ErrNoGroup  = errors.New("no such failure group")
	ErrCursor   = errors.New("not a cursor of this list")
	ErrVague    = fmt.Errorf("the text is that of more than %d failure groups", maxTextGroups)
)

// Letters answers questions about dead letters; safe for concurrent use.
type Letters struct {
	db         *pgxpool.Pool
	jq         []string      // see WithJQ
	conditions chan struct{} // a place for each that runs
	longest    time.Duration // after which a page by a condition ends with what was found
}

// NewLetters returns Letters over db, which stays the caller's.
func NewLetters(db *pgxpool.Pool) *Letters { return &Letters{db: db, longest: mostLong} }

// Filter chooses letters; the zero Filter chooses all.
type Filter struct {
	IDs    []string // letters, or task ids
	Kind   string
	Queue  string
	Group  string // fingerprint
	State  string
	Reason string
	Key    string
	Text   string    // of the error, as Normalize leaves it: a part of its class and message
	Since  time.Time // died at or after
	Until  time.Time // died before; zero = no bound

	// Of groups alone.
	Care      string // what people say of it
	HideMuted bool
}

// Entry is a letter as the index knows it. Payload and Headers are filled by
// Get alone.
type Entry struct {
	Letter     string          `json:"letter" doc:"<task id>@<epoch>, or kafka:<topic>:<partition>:<offset>"`
	TaskID     string          `json:"task_id,omitempty"`
	Epoch      int             `json:"epoch"`
	Kind       string          `json:"kind,omitempty"`
	Queue      string          `json:"queue"`
	Key        string          `json:"key,omitempty"`
	State      string          `json:"state" enum:"open,held,replaying,resolved,discarded"`
	Reason     string          `json:"reason"`
	ErrorClass string          `json:"error_class,omitempty"`
	Message    string          `json:"message,omitempty"`
	Group      string          `json:"group" doc:"fingerprint of its cause"`
	Run        int64           `json:"run"`
	Release    string          `json:"release,omitempty"`
	Catalog    string          `json:"catalog,omitempty"`
	Deadline   *time.Time      `json:"deadline,omitempty"`
	Origin     string          `json:"origin" doc:"topic/partition/offset of the record that died"`
	DLQ        string          `json:"dlq" doc:"topic/partition/offset of the letter"`
	DiedAt     time.Time       `json:"died_at"`
	ChangedAt  time.Time       `json:"changed_at"`
	Replays    int             `json:"replays"`
	ResolvedBy string          `json:"resolved_by,omitempty" doc:"completed, cancelled, replay or discard"`
	Block      bool            `json:"block,omitempty" doc:"on_dead: block: later tasks of its key wait until it is settled"`
	BlockedBy  string          `json:"blocked_by,omitempty" doc:"reason blocked: the letter that it waits for"`
	Waiting    int             `json:"waiting,omitempty" doc:"tasks of its key that wait until it is settled, at most 10,000 are counted; only where one letter is shown"`
	Size       int             `json:"payload_bytes"`
	Cut        bool            `json:"cut,omitempty" doc:"the original was too large to be kept whole"`
	Attempts   json.RawMessage `json:"attempts,omitempty"`

	ContentType string          `json:"content_type,omitempty"`
	Payload     []byte          `json:"-"`
	Headers     json.RawMessage `json:"-"`
}

const entryColumns = `letter, coalesce(task_id, ''), epoch, coalesce(kind, ''), queue, coalesce(key, ''), state, reason, error_class,
  message, fingerprint, run, release, catalog, deadline, origin_topic || '/' || origin_partition || '/' || origin_offset,
  dlq_topic || '/' || dlq_partition || '/' || dlq_offset, died_at, changed_at, replays, resolved_by,
  coalesce(length(payload), 0), cut, content_type, block, blocked_by`

func (e *Entry) fields() []any {
	return []any{&e.Letter, &e.TaskID, &e.Epoch, &e.Kind, &e.Queue, &e.Key, &e.State, &e.Reason, &e.ErrorClass,
		&e.Message, &e.Group, &e.Run, &e.Release, &e.Catalog, &e.Deadline, &e.Origin,
		&e.DLQ, &e.DiedAt, &e.ChangedAt, &e.Replays, &e.ResolvedBy,
		&e.Size, &e.Cut, &e.ContentType, &e.Block, &e.BlockedBy}
}

// Of all groups, or of some where a key says more: latest deaths first; the cursor is
// the last row seen. That it died before the cursor is said twice, for the indexes that
// do not hold the letter. States are not read where none is asked for, nor is a group:
// a left join of which no column is named is none.
const (
	pageOfAll = `
select l.letter, l.died_at from perdure.letters l left join perdure.letter_states s on s.letter = l.letter
where ($1 = '' or l.kind = $1) and ($2 = '' or l.queue = $2) and ($3 = '' or s.state = $3) and ($4 = '' or l.reason = $4) and ($5 = '' or l.key = $5)
  and ($6::timestamptz is null or l.died_at >= $6) and ($7::timestamptz is null or l.died_at <= $7 and (l.died_at, l.letter) < ($7, $8))
  and ($9::text[] is null or l.letter = any($9) or l.task_id = any($9))
  and ($11::text[] is null or s.fingerprint = any($11))
order by l.died_at desc, l.letter desc limit $10`
	// Those that are open: from their index.
	pageOfOpen = `
select s.letter, s.died_at from perdure.letter_states s
where $1 = '' and $2 = '' and s.state = 'open' and $3 = 'open' and $4 = '' and $5 = ''
  and ($6::timestamptz is null or s.died_at >= $6) and ($7::timestamptz is null or s.died_at <= $7 and (s.died_at, s.letter) < ($7, $8))
  and $9::text[] is null and $11::text[] is null
order by s.died_at desc, s.letter desc limit $10`
	// By another state alone: an index of it would cost each letter that passes through. As
	// many groups as letters are wanted have each a letter that died no earlier than the
	// last of these groups' latest ones: what died before that is not of the page, and of
	// the rest each group gives at most a page, in the index's own order, with all that are
	// as late as the last. That no letter of a group died after its last_seen is what its
	// counts keep (migration 00068): so those that were seen last are asked first, and of
	// the others only those that were seen late enough. Of groups that were seen since the
	// cursor that says nothing: they are asked all.
	pageOfState = `
with c as materialized (
  select fingerprint, max(last_seen) as bound from perdure.group_rows
  where state = $3 and $1 = '' and $2 = '' and $4 = '' and $5 = '' and $9::text[] is null and $11::text[] is null
  group by 1 having sum(n) > 0 and ($6::timestamptz is null or max(last_seen) >= $6)),
r as materialized (
  select fingerprint, bound, bound >= coalesce((select bound from c where $7::timestamptz is null or bound < $7 order by 1 desc offset $10 - 1 limit 1), '-infinity') as first from c),
a as materialized (
  select r.fingerprint, d.died_at from r cross join lateral (` + ofGroup + ` order by 1 desc limit 1) d where r.first),
b as materialized (
  select fingerprint, died_at from a
  union all
  select r.fingerprint, d.died_at from r cross join lateral (` + ofGroup + ` order by 1 desc limit 1) d
  where not r.first and r.bound >= coalesce((select died_at from a order by 1 desc offset $10 - 1 limit 1), '-infinity')),
edge as materialized (select coalesce((select died_at from b order by 1 desc offset $10 - 1 limit 1), '-infinity') as died_at)
select p.letter, p.died_at from edge join b r on r.died_at >= edge.died_at
cross join lateral (` + ofGroup + ` and d.died_at >= edge.died_at order by 1 desc fetch first ($10) rows with ties) p
order by p.died_at desc, p.letter desc limit $10`
	ofGroup = `
    select d.died_at, d.letter from perdure.letter_states d where d.fingerprint = r.fingerprint and d.state = $3
      and ($6::timestamptz is null or d.died_at >= $6) and ($7::timestamptz is null or d.died_at <= $7 and (d.died_at, d.letter) < ($7, $8))`
)

// Of some groups: of each, in each state, a page by its own index; then the latest
// of them. So a rare cause is found without passing over everybody else's letters.
// A cause's letters are of one kind, queue and reason, mostly; Postgres takes these for
// independent, expects few and sorts all. Of a CASE it expects half.
const pageOfGroups = `
select p.letter, p.died_at from unnest($11::text[]) g(fp) cross join unnest(array['open', 'held', 'replaying', 'resolved', 'discarded']) s(state)
cross join lateral (
  select d.letter, d.died_at from perdure.letter_states d left join perdure.letters l on l.letter = d.letter
  where d.fingerprint = g.fp and d.state = s.state and ($5 = '' or l.key = $5)
    and ($1 = '' or case d.kind when $1 then true end) and ($2 = '' or case d.queue when $2 then true end) and ($4 = '' or case d.reason when $4 then true end)
    and ($6::timestamptz is null or d.died_at >= $6) and ($7::timestamptz is null or d.died_at <= $7 and (d.died_at, d.letter) < ($7, $8))
    and ($9::text[] is null or l.letter = any($9) or l.task_id = any($9))
  order by d.died_at desc, d.letter desc limit $10) p
where $3 = '' or s.state = $3
order by p.died_at desc, p.letter desc limit $10`

// pages are the statements of one kind of list.
type pages struct{ all, open, state, groups string }

// Each by its key (offset 0), whatever Postgres guesses how many there are.
const (
	pageOf = `select e.* from (`
	listed = `) p cross join lateral (select ` + entryColumns + ` from perdure.dead_letters where letter = p.letter offset 0) e
order by p.died_at desc, p.letter desc`
)

var (
	listLetters  = pages{pageOf + pageOfAll + listed, pageOf + pageOfOpen + listed, pageOf + pageOfState + listed, pageOf + pageOfGroups + listed}
	foundLetters = pages{pageOfAll, pageOfOpen, pageOfState, pageOfGroups}
)

// statement is the one for what f means, of all groups or of some; not of some if f
// names a key too: a key has few letters, a group may have millions. grouped: it reads
// group by group, of each up to as many as are wanted.
func (of *pages) statement(f *Filter, groups []string) (sql string, grouped bool) {
	switch {
	case groups != nil && f.Key == "":
		return of.groups, true
	case groups != nil || f.State == "" || f.Kind+f.Queue+f.Reason+f.Key != "" || f.IDs != nil:
		return of.all, false
	case f.State == string(schemas.LetterOpen):
		return of.open, false
	}
	return of.state, true
}

// page reads letters. A statement is planned each time: what is planned for any value
// reads everything for a rare one.
func (s *Letters) page(ctx context.Context, of *pages, f *Filter, groups []string, before *time.Time, beforeID string, limit int) (pgx.Rows, error) {
	sql, _ := of.statement(f, groups)
	return s.db.Query(ctx, sql, pgx.QueryExecModeCacheDescribe, f.Kind, f.Queue, f.State, f.Reason, f.Key, timeOrNil(f.Since), before, beforeID, f.IDs, limit, groups)
}

// Which groups have letters like these, how many, and how many letters there are in all.
const groupsThatHave = `
select fingerprint, sum(n)::bigint, max(last_seen), (select coalesce(sum(n), 0)::bigint from perdure.group_rows)
from perdure.group_rows
where ($1 = '' or kind = $1) and ($2 = '' or queue = $2) and ($3 = '' or state = $3) and ($4 = '' or reason = $4) and ($5::text[] is null or fingerprint = any($5))
group by fingerprint having sum(n) > 0 limit $6`

// frequent: of letters that are at least so large a part of all, a page is soon found
// among the others.
const frequent = 1. / 50

// pageGroups are the groups whose letters a page is read from, nil for all, and a time
// from which on none of its letters died, nil if that is not known. What no index has (a
// reason; two conditions at once), and few letters are, would otherwise be looked for
// among all of them.
func (s *Letters) pageGroups(ctx context.Context, f *Filter) (groups []string, latest *time.Time, err error) {
	groups, err = s.groups(ctx, f)
	conditions := 0
	for _, c := range []string{f.Kind, f.Queue, f.State, f.Reason} {
		if c != "" {
			conditions++
		}
	}
	indexed := groups == nil && conditions == 1 && f.Reason == ""
	if err != nil || conditions == 0 || indexed || f.Key != "" || f.IDs != nil {
		return groups, nil, err
	}
	rows, err := s.db.Query(ctx, groupsThatHave, f.Kind, f.Queue, f.State, f.Reason, groups, maxTextGroups+1)
	if err != nil {
		return nil, nil, fmt.Errorf("find failure groups: %w", err)
	}
	have := []string{}
	var group string
	var last *time.Time
	var n, found, all int64
	if _, err := pgx.ForEachRow(rows, []any{&group, &n, &last, &all}, func() error {
		have, found = append(have, group), found+n
		if last != nil && (latest == nil || last.After(*latest)) {
			at := last.Add(time.Microsecond)
			latest = &at
		}
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("find failure groups: %w", err)
	}
	switch {
	case len(have) > maxTextGroups: // there may be more, and later ones
		return groups, nil, nil
	case groups == nil && found > 0 && float64(found) >= frequent*float64(all):
		return nil, latest, nil
	}
	return have, latest, nil
}

// Stands reports whether the later tasks of the letter's key wait for it.
func (e *Entry) Stands() bool {
	return e.Block && (e.State == string(schemas.LetterOpen) || e.State == string(schemas.LetterHeld) || e.State == string(schemas.LetterReplaying))
}

const countWaiting = `select count(*) from (
  select from perdure.letter_states where queue = $1 and line = $2 and reason = 'blocked' and state = 'held' limit 10000) n`

// List returns at most limit letters, latest deaths first, and the cursor of
// the page after them, "" after the last. The error is ErrVague if f.Text is that
// of too many groups.
func (s *Letters) List(ctx context.Context, f Filter, cursor string, limit int) ([]Entry, string, error) {
	before, beforeID, err := startOf(cursor)
	if err != nil {
		return nil, "", err
	}
	groups, latest, err := s.pageGroups(ctx, &f)
	if err != nil {
		return nil, "", err
	}
	if before == nil {
		before = latest
	}
	before, beforeID = f.until(before, beforeID)
	rows, err := s.page(ctx, &listLetters, &f, groups, before, beforeID, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (e Entry, err error) { return e, r.Scan(e.fields()...) })
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	if len(list) <= limit {
		return list, "", nil
	}
	list = list[:limit]
	last := list[limit-1]
	return list, formatCursor(last.DiedAt, last.Letter), nil
}

// until is where a page begins: what died before f.Until, and behind the cursor.
func (f *Filter) until(before *time.Time, id string) (*time.Time, string) {
	if f.Until.IsZero() || before != nil && before.Before(f.Until) {
		return before, id
	}
	return &f.Until, ""
}

// Get returns one letter with its attempts, payload and headers. id is a
// letter's, or a task's: then its latest. The error is ErrNoLetter if there is
// none.
func (s *Letters) Get(ctx context.Context, id string) (*Entry, error) {
	var e Entry
	err := s.db.QueryRow(ctx, `select `+entryColumns+`, attempts, payload, headers from perdure.dead_letters
where letter = $1 or task_id = $1 order by letter = $1 desc, epoch desc, died_at desc limit 1`, id).
		Scan(append(e.fields(), &e.Attempts, &e.Payload, &e.Headers)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoLetter
	}
	if err == nil && e.Stands() {
		err = s.db.QueryRow(ctx, countWaiting, e.Queue, e.Key).Scan(&e.Waiting)
	}
	if err != nil {
		return nil, fmt.Errorf("dead letter %s: %w", id, err)
	}
	return &e, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func formatCursor(t time.Time, id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(t.UnixMicro(), 10) + " " + id))
}

// startOf is where a page begins; nil at the first.
func startOf(cursor string) (before *time.Time, id string, err error) {
	if cursor == "" {
		return nil, "", nil
	}
	t, id, err := parseCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	return &t, id, nil
}

func parseCursor(s string) (time.Time, string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return time.Time{}, "", ErrCursor
	}
	us, id, ok := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(us, 10, 64)
	if !ok || err != nil {
		return time.Time{}, "", ErrCursor
	}
	t := time.UnixMicro(n)
	if t.Year() < 1 || t.Year() > 9999 || id != Clip(id, len(id)) {
		return time.Time{}, "", ErrCursor
	}
	return t, id, nil
}
