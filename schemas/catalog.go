package schemas

// The catalog: every kind, queue and dependency, declared once.

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Defaults that ParseCatalog fills in where the catalog is silent.
const (
	DefaultPartitions   = 8
	DefaultRetention    = 168 * time.Hour
	DefaultDLQRetention = 720 * time.Hour
	DefaultTimeout      = 30 * time.Second
	DefaultHeartbeat    = time.Hour // of work that goes on elsewhere
	DefaultMaxAttempts  = 10
	DefaultInitialDelay = time.Second
	DefaultMaxDelay     = 10 * time.Minute
)

// Catalog is what ParseCatalog returns: complete (defaults filled in), validated and
// never changed afterwards, so that it may be shared by goroutines.
type Catalog struct {
	Queues       map[string]*Queue
	Dependencies map[string]*Dependency
	Kinds        map[string]*Kind
	Replays      Replays
	Fixers       map[string]*Fixer
	Policies     map[string]*Policy
	Warnings     CatalogErrors // of what is valid and does not do what it says, each with its place; nil = nothing
	Hash         string        // hex of the first 8 bytes of SHA-256 over the source text and the schemas it names
}

// CompileSchema gives a kind that was read from elsewhere than a catalog file
// (a database) its validator. files holds the text of file and of every file
// that it refers to, as in SchemaFiles.
func (k *Kind) CompileSchema(file string, files map[string][]byte) error {
	loader := &schemaLoader{read: files}
	v, text, err := loader.compile(file)
	if err != nil {
		return err
	}
	k.SchemaFile, k.Schema, k.SchemaFiles, k.validator = file, text, files, v
	return nil
}

// Queue is one topic tasks.<name>, the unit of pausing, scaling and weight.
type Queue struct {
	Name         string
	Partitions   int           // default DefaultPartitions
	Replication  int           // 0 = the broker's default
	Weight       int           // default 1
	Retention    time.Duration // age from which finished records may be trimmed
	DLQRetention time.Duration
	Shared       bool // delivery: shared: any worker is given any record (a Kafka share group); no order
}

// Dependency is something that kinds call and that can fail as one.
type Dependency struct {
	Name string
	Rate float64 // calls per second over the fleet, 0 = no limit; kept, and enforced by nobody yet

	Concurrency int // attempts that may call it at once from one worker, 0 = no limit
}

// Kind is a type of task.
type Kind struct {
	Name         string
	Queue        string
	SchemaFile   string            // as written; "" = any payload
	Schema       json.RawMessage   // the JSON Schema's text; nil = any payload
	SchemaURI    string            // ce_dataschema; "" = none
	SchemaFiles  map[string][]byte // SchemaFile and what it refers to, by path; nil = none
	Timeout      time.Duration     // of one attempt
	Heartbeat    time.Duration     // heartbeat_timeout: silence after which an attempt is given up; 0 = a running one may be silent
	ExpiresAfter time.Duration     // 0 = never; a deadline given at enqueue wins if earlier
	StartWithin  time.Duration     // how late its first attempt may begin, after its time; 0 = whenever
	Ordered      bool              // order: key
	BlockOnDead  bool              // on_dead: block
	Effects      Effects           // default idempotent
	Retry        Retry
	Dependency   string        // "" = none
	Concurrency  int           // attempts that run at once on one worker, 0 = no limit of its own
	Sensitive    bool          // its replays need another person's approval
	HTTP         *HTTPExecutor // nil = a Go handler in the user's own binary
	Reconcile    *HTTPHook     // effects: once; asked whether an effect in doubt happened; nil = no URL is

	UniqueFor            time.Duration // unique: how long a unique key is held; 0 = for no period
	UniqueUntilCompleted bool          // unique: held until its task has ended for good; UniqueFor is 0 then
	Schedule             *Schedule     // nil = only as they are enqueued

	validator *validator // compiled Schema, nil = any payload
}

// Retry says how often and how soon a failed attempt is tried again.
type Retry struct {
	MaxAttempts  int
	InitialDelay time.Duration
	MaxDelay     time.Duration
}

// HTTPExecutor runs a kind by posting its payload to a URL.
type HTTPExecutor struct {
	URL       string
	SecretEnv string         // environment variable with the Standard Webhooks secret; "" = unsigned
	Responses map[int]string // status → completed | retry | permanent, over the defaults
}

// HTTPHook is a URL that is asked about a task.
type HTTPHook struct {
	URL       string
	SecretEnv string // as of HTTPExecutor
}

// Kind returns the kind of that name, nil if the catalog has none.
func (c *Catalog) Kind(name string) *Kind { return c.Kinds[name] }

// QueueNames returns the names of all queues, sorted.
func (c *Catalog) QueueNames() []string { return slices.Sorted(maps.Keys(c.Queues)) }

// KindNames returns the names of all kinds, sorted.
func (c *Catalog) KindNames() []string { return slices.Sorted(maps.Keys(c.Kinds)) }

// Silence is how long work that goes on elsewhere may be silent.
func (k *Kind) Silence() time.Duration {
	if k.Heartbeat > 0 {
		return k.Heartbeat
	}
	return DefaultHeartbeat
}

// TakesUniqueKey reports whether a task of this kind may have a unique key.
func (k *Kind) TakesUniqueKey() bool { return k.UniqueFor > 0 || k.UniqueUntilCompleted }

// StartsTooLate reports whether a task that could have begun at since, and never
// did, is not to begin any more: start_within.
func (k *Kind) StartsTooLate(since, now time.Time) bool {
	return k.StartWithin > 0 && now.Sub(since) > k.StartWithin
}

// ValidatePayload returns what is wrong with a payload of this kind, nil if
// nothing is. A JSON content type (IsJSON) must hold JSON, at most MaxDepth
// deep, that matches the kind's schema; any other is opaque bytes and passes.
func (k *Kind) ValidatePayload(payload []byte, contentType string) []FieldError {
	if !IsJSON(contentType) {
		return nil
	}
	if errs := checkJSON(payload); errs != nil {
		return errs
	}
	if k.validator == nil {
		return nil
	}
	return k.validator.check(payload)
}
