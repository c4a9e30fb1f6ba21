package dispatcher

// The catalog in the database: what SQL functions and Go clients check against.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/schemas"
)

// Beginner begins a transaction: *pgxpool.Pool, *pgx.Conn.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ApplyOptions are how a catalog is applied.
type ApplyOptions struct {
	// MaxPayload in bytes, for every kind; 0 is schemas.MaxPayload. Lower where
	// the topics' max.message.bytes is.
	MaxPayload int
	// Prune also removes kinds and queues that the catalog does not have.
	// `perdure catalog apply` does; a dispatcher that starts does not: in a
	// rolling deploy the older one would take the newer one's kinds away.
	Prune bool
}

// Change is one thing that applying a catalog changed.
type Change struct {
	What   string `json:"what"`   // queue | kind
	Name   string `json:"name"`   // of the queue or kind
	Action string `json:"action"` // added | changed | removed
}

// ApplyCatalog writes cat to perdure.queues and perdure.kinds in one
// transaction and returns what it changed, in a stable order; nil means that the
// database had it already. Two that apply at once do so one after the other.
func ApplyCatalog(ctx context.Context, db Beginner, cat *schemas.Catalog, opt ApplyOptions) ([]Change, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("catalog apply: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after Commit it does nothing
	a := applier{tx: tx, cat: cat, opt: opt}
	if err := a.run(ctx); err != nil {
		return nil, fmt.Errorf("catalog apply: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return nil, fmt.Errorf("catalog apply: commit: %w", err)
	}
	return a.changes, nil
}

// applyLock is held until the transaction ends: "catalog" in ASCII.
const applyLock int64 = 0x636174616c6f67

type applier struct {
	tx      pgx.Tx
	cat     *schemas.Catalog
	opt     ApplyOptions
	changes []Change
}

func (a *applier) run(ctx context.Context) error {
	if _, err := a.tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, applyLock); err != nil {
		return err
	}
	for _, name := range a.cat.QueueNames() {
		if err := a.queue(ctx, a.cat.Queues[name]); err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
	}
	for _, name := range a.cat.KindNames() {
		if err := a.kind(ctx, a.cat.Kinds[name]); err != nil {
			return fmt.Errorf("kind %s: %w", name, err)
		}
	}
	if !a.opt.Prune {
		return nil
	}
	if err := a.prune(ctx, "kind", `delete from perdure.kinds where not kind = any($1) returning kind`, a.cat.KindNames()); err != nil {
		return err
	}
	return a.prune(ctx, "queue", `delete from perdure.queues where not queue = any($1) returning queue`, a.cat.QueueNames())
}

// upsert runs a statement that returns whether it inserted; no row is no change.
func (a *applier) upsert(ctx context.Context, what, name, query string, args ...any) error {
	var added bool
	rows, err := a.tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, []any{&added}, func() error {
		c := Change{What: what, Name: name, Action: "changed"}
		if added {
			c.Action = "added"
		}
		a.changes = append(a.changes, c)
		return nil
	})
	return err
}

func (a *applier) queue(ctx context.Context, q *schemas.Queue) error {
	settings, err := json.Marshal(map[string]any{
		"partitions": q.Partitions, "replication": q.Replication, "weight": q.Weight,
		"retention": q.Retention.String(), "dlq_retention": q.DLQRetention.String(),
	})
	if err != nil {
		return err
	}
	return a.upsert(ctx, "queue", q.Name, `
		insert into perdure.queues as q (queue, settings) values ($1, $2)
		on conflict (queue) do update set settings = excluded.settings, applied_at = clock_timestamp()
		  where q.settings is distinct from excluded.settings
		returning xmax = 0`, q.Name, settings)
}

// kindSettings is perdure.kinds.settings: for people and tools, and the schema
// files for the Go client.
type kindSettings struct {
	Timeout      string `json:"timeout"`
	OnDeadBlock  bool   `json:"on_dead_block,omitempty"`
	MaxAttempts  int    `json:"max_attempts"`
	InitialDelay string `json:"initial_delay"`
	MaxDelay     string `json:"max_delay"`
	Dependency   string `json:"dependency,omitempty"`
	HTTP         string `json:"http,omitempty"`
	client.StoredSchema
}

func (a *applier) kind(ctx context.Context, k *schemas.Kind) error {
	s := kindSettings{
		Timeout: k.Timeout.String(), OnDeadBlock: k.BlockOnDead,
		MaxAttempts: k.Retry.MaxAttempts, InitialDelay: k.Retry.InitialDelay.String(), MaxDelay: k.Retry.MaxDelay.String(),
		Dependency: k.Dependency, StoredSchema: client.StoredSchema{File: k.SchemaFile, Files: k.SchemaFiles},
	}
	if k.HTTP != nil {
		s.HTTP = k.HTTP.URL
	}
	settings, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var expires, schema, uri, unique any
	if k.UniqueFor > 0 {
		unique = k.UniqueFor
	}
	if k.ExpiresAfter > 0 {
		expires = k.ExpiresAfter
	}
	// jsonb cannot hold a NUL, which a pattern may name; the files have it.
	if k.Schema != nil && !bytes.Contains(k.Schema, []byte(`\u0000`)) {
		schema = []byte(k.Schema)
	}
	if k.SchemaURI != "" {
		uri = k.SchemaURI
	}
	limit := a.opt.MaxPayload
	if limit <= 0 || limit > schemas.MaxPayload {
		limit = schemas.MaxPayload
	}
	return a.upsert(ctx, "kind", k.Name, `
		insert into perdure.kinds as k (kind, queue, ordered, effects, max_payload, expires_after, schema, schema_uri, settings, catalog, unique_for, unique_until_completed)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		on conflict (kind) do update set queue = excluded.queue, ordered = excluded.ordered, effects = excluded.effects,
		  max_payload = excluded.max_payload, expires_after = excluded.expires_after, schema = excluded.schema,
		  schema_uri = excluded.schema_uri, settings = excluded.settings, catalog = excluded.catalog, unique_for = excluded.unique_for,
		  unique_until_completed = excluded.unique_until_completed, applied_at = clock_timestamp()
		  where (k.queue, k.ordered, k.effects, k.max_payload, k.expires_after, k.schema, k.schema_uri, k.settings, k.unique_for, k.unique_until_completed)
		    is distinct from (excluded.queue, excluded.ordered, excluded.effects, excluded.max_payload, excluded.expires_after, excluded.schema, excluded.schema_uri, excluded.settings, excluded.unique_for, excluded.unique_until_completed)
		returning xmax = 0`,
		k.Name, k.Queue, k.Ordered, string(k.Effects), limit, expires, schema, uri, settings, a.cat.Hash, unique, k.UniqueUntilCompleted)
}

func (a *applier) prune(ctx context.Context, what, query string, keep []string) error {
	rows, err := a.tx.Query(ctx, query, keep)
	if err != nil {
		return err
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("remove what the catalog does not have: %w", err)
	}
	for _, name := range gone {
		a.changes = append(a.changes, Change{What: what, Name: name, Action: "removed"})
	}
	return nil
}
