package client

// The catalog as the database has it: loaded once, looked at again from time
// to time and when a kind is not known.

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

const (
	lookAgain = 30 * time.Second // a changed kind is noticed after this
	lookSoon  = time.Second      // a kind that is unknown, or on another queue, makes us look, but not more often

	lookPatience = 250 * time.Millisecond // for a look that could also be done later
	lookAtMost   = 2 * time.Second        // for a look on which a refusal depends
)

// snapshot is the catalog at one moment; never changed.
type snapshot struct {
	*schemas.Catalog
	maxPayload map[string]int // by kind, bytes
	source     string
	version    string // of the rows
}

// kinds holds the newest snapshot.
type kinds struct {
	db     DB
	now    func() time.Time
	latest atomic.Pointer[snapshot]
	looked atomic.Int64 // Unix ns
	mu     sync.Mutex   // one look at a time
}

// get returns a snapshot that was looked at lately and, if the database knows
// it, has the kind; on that queue, if one is named: a kind may have moved. at is now.
func (k *kinds) get(ctx context.Context, kind, queue string, at time.Time) (*snapshot, error) {
	s := k.latest.Load()
	looked, now := k.looked.Load(), at.UnixNano()
	age := time.Duration(now - looked)
	switch {
	case s == nil, !s.has(kind, queue) && age >= lookSoon:
		return k.look(ctx, s)
	case age < lookAgain, !k.looked.CompareAndSwap(looked, now): // or another looks
		return s, nil
	}
	return k.refresh(ctx, s), nil
}

func (s *snapshot) has(kind, queue string) bool {
	known := s.Kinds[kind]
	return known != nil && (queue == "" || queue == known.Queue)
}

// refresh looks again, briefly, and else goes on with s. It must never wait for
// long: its caller may hold a transaction on the pool's last connection, and a
// look that waits for another one would wait for its own caller.
func (k *kinds) refresh(ctx context.Context, s *snapshot) *snapshot {
	if !k.mu.TryLock() {
		return s
	}
	defer k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	fresh, err := k.read(ctx, s)
	if err != nil {
		return s // if Postgres is away, the caller's own statement says so
	}
	k.latest.Store(fresh)
	return fresh
}

// look reads the rows again if they changed since old. With an old snapshot it
// gives up in time: its caller, too, may hold the pool's last connection.
func (k *kinds) look(ctx context.Context, old *snapshot) (*snapshot, error) {
	asked := k.looked.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.latest.Load(); s != old || s != nil && k.looked.Load() != asked {
		return s, nil // another looked while we waited
	}
	patient := ctx
	if old != nil {
		var cancel context.CancelFunc
		patient, cancel = context.WithTimeout(ctx, lookAtMost)
		defer cancel()
		defer func() { k.looked.Store(k.now().UnixNano()) }() // who waited for this look need not try too
	}
	s, err := k.read(patient, old)
	switch {
	case err == nil:
		k.latest.Store(s)
		k.looked.Store(k.now().UnixNano())
		return s, nil
	case old != nil && patient.Err() != nil && ctx.Err() == nil:
		return old, nil
	}
	return nil, err
}

func (k *kinds) read(ctx context.Context, old *snapshot) (*snapshot, error) {
	var source, version string
	err := k.db.QueryRow(ctx, sqlCatalogVersion).Scan(&source, &version)
	if err != nil {
		return nil, wrap("read the catalog", err)
	}
	if source == "" {
		return nil, fmt.Errorf("enqueue: %w", ErrNotMigrated)
	}
	if old != nil && old.version == version {
		return old, nil
	}
	s := &snapshot{
		Catalog:    &schemas.Catalog{Queues: map[string]*schemas.Queue{}, Kinds: map[string]*schemas.Kind{}},
		maxPayload: map[string]int{}, source: source, version: version,
	}
	rows, err := k.db.Query(ctx, sqlCatalogQueues)
	if err != nil {
		return nil, wrap("read perdure.queues", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, wrap("read perdure.queues", err)
	}
	for _, name := range names {
		s.Queues[name] = &schemas.Queue{Name: name}
	}
	if rows, err = k.db.Query(ctx, sqlCatalogKinds); err != nil {
		return nil, wrap("read perdure.kinds", err)
	}
	if _, err := pgx.CollectRows(rows, s.kind); err != nil {
		return nil, wrap("read perdure.kinds", err)
	}
	return s, nil
}

// kind reads one row of perdure.kinds into s.
func (s *snapshot) kind(row pgx.CollectableRow) (struct{}, error) {
	var (
		kind     schemas.Kind
		limit    int
		expires  *time.Duration
		unique   *time.Duration
		settings []byte
		stored   StoredSchema
	)
	if err := row.Scan(&kind.Name, &kind.Queue, &kind.Ordered, &limit, &expires, &unique, &kind.UniqueUntilCompleted, &settings); err != nil {
		return struct{}{}, err
	}
	if expires != nil {
		kind.ExpiresAfter = *expires
	}
	if unique != nil {
		kind.UniqueFor = *unique
	}
	if err := json.Unmarshal(settings, &stored); err != nil {
		return struct{}{}, fmt.Errorf("settings of kind %s: %w", kind.Name, err)
	}
	if stored.File != "" {
		if err := kind.CompileSchema(stored.File, stored.Files); err != nil {
			return struct{}{}, fmt.Errorf("schema of kind %s: %w: run `perdure catalog apply`", kind.Name, err)
		}
	}
	s.Kinds[kind.Name] = &kind
	s.maxPayload[kind.Name] = limit
	return struct{}{}, nil
}

// StoredSchema is the part of perdure.kinds.settings from which a kind's
// schema is compiled again. `perdure catalog apply` writes it.
type StoredSchema struct {
	File  string            `json:"schema_file,omitempty"`
	Files map[string][]byte `json:"schema_files,omitempty"` // by path; base64 in JSON
}

// row checks a task against the catalog and turns it into a row.
func (s *snapshot) row(t *Task, now time.Time) (row, error) {
	sub, err := t.submission()
	if err != nil {
		return row{}, err
	}
	limit := s.maxPayload[sub.Kind]
	errs := schemas.ValidateTask(s.Catalog, &sub, now, limit)
	if detail := badProducer(t.Producer); detail != "" {
		errs = append(errs, schemas.FieldError{Pointer: "#/producer", Detail: detail})
	}
	kind := s.Kinds[sub.Kind]
	if t.UniqueKey != "" && kind != nil && !kind.TakesUniqueKey() {
		errs = append(errs, schemas.FieldError{Pointer: "#/unique_key", Detail: "cannot be used: the kind declares no unique, such as `unique: {until: completed}` in catalog.yaml; for one task a request use idempotency_key"})
	}
	if len(errs) > 0 {
		invalid := &InvalidError{Errors: errs}
		if kind == nil {
			invalid.cause = ErrUnknownKind
		} else if len(sub.Payload) > limit {
			invalid.cause = ErrTooLarge
		}
		return row{}, invalid
	}
	r := row{
		kind: sub.Kind, queue: sub.Queue, key: sub.Key, contentType: sub.ContentType, payload: sub.Payload,
		runAt: sub.RunAt, deadline: sub.Deadline, idempotencyKey: sub.IdempotencyKey, producer: t.Producer,
		uniqueKey: t.UniqueKey, uniqueFor: kind.UniqueFor,
	}
	if r.queue == "" {
		r.queue = kind.Queue
	}
	if r.contentType == "" {
		r.contentType = schemas.JSONContentType
	}
	if kind.ExpiresAfter > 0 {
		from := now
		if sub.RunAt.After(now) {
			from = sub.RunAt
		}
		if d := from.Add(kind.ExpiresAfter); r.deadline.IsZero() || d.Before(r.deadline) {
			r.deadline = d
		}
	}
	if len(sub.Headers)+len(sub.Extensions) > 0 {
		b, err := json.Marshal(allHeaders(&sub))
		if err != nil {
			return row{}, fmt.Errorf("enqueue: headers: %w", err)
		}
		r.headers = string(b)
	}
	r.scheduled = sub.RunAt.After(now)
	return r, nil
}

// allHeaders are those of a row: the user's, and the extensions' under the names
// that they have on a record.
func allHeaders(sub *schemas.Submission) map[string]string {
	if len(sub.Extensions) == 0 {
		return sub.Headers
	}
	all := make(map[string]string, len(sub.Headers)+len(sub.Extensions))
	maps.Copy(all, sub.Headers)
	for name, value := range sub.Extensions {
		all[schemas.ExtensionHeader(name)] = value
	}
	return all
}

// badProducer says why p cannot be the scope of a key, "" if it can: Postgres
// would refuse it in the middle of the caller's transaction, or, where it is too
// long for the index, only for some.
func badProducer(p string) string {
	switch {
	case len(p) > schemas.MaxKey:
		return fmt.Sprintf("is longer than %d bytes", schemas.MaxKey)
	case strings.ContainsAny(p, "\x00\x1f"):
		return "holds a control character"
	case !utf8.ValidString(p):
		return "is not UTF-8"
	}
	return ""
}
