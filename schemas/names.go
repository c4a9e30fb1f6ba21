package schemas

// States, outcomes, reasons and header names. They are contracts: other
// programs compare them as strings.

// State of a task, as users see it.
type State string

// The states of a task. The last three are terminal.
const (
	StateScheduled State = "scheduled"
	StateQueued    State = "queued"
	StateRunning   State = "running"
	StateRetrying  State = "retrying"
	StateWaiting   State = "waiting"
	StateDead      State = "dead"
	StateCompleted State = "completed"
	StateCancelled State = "cancelled"
	StateDiscarded State = "discarded"
)

// WaitReason says why a task is StateWaiting.
type WaitReason string

// The reasons for waiting.
const (
	WaitExternal    WaitReason = "external"
	WaitInput       WaitReason = "input"
	WaitBreaker     WaitReason = "breaker"
	WaitPaused      WaitReason = "paused"
	WaitUnknownKind WaitReason = "unknown_kind"
)

// Outcome of one attempt.
type Outcome string

// The outcomes of an attempt.
const (
	OutcomeCompleted  Outcome = "completed"
	OutcomeRetry      Outcome = "retry"
	OutcomeDead       Outcome = "dead"
	OutcomeUnknown    Outcome = "unknown"
	OutcomeHandedBack Outcome = "handed_back"
	OutcomePending    Outcome = "pending" // it goes on elsewhere; for tests of handlers alone
)

// LetterState is the state of a dead letter.
type LetterState string

// The states of a dead letter.
const (
	LetterOpen      LetterState = "open"
	LetterHeld      LetterState = "held"
	LetterReplaying LetterState = "replaying"
	LetterResolved  LetterState = "resolved"
	LetterDiscarded LetterState = "discarded"
)

// Reason says why a task is dead.
type Reason string

// The reasons of a dead letter.
const (
	ReasonPermanent   Reason = "permanent"
	ReasonExhausted   Reason = "exhausted"
	ReasonExpired     Reason = "expired"
	ReasonPoison      Reason = "poison"
	ReasonUndecodable Reason = "undecodable"
	ReasonSchema      Reason = "schema"
	ReasonUnknownKind Reason = "unknown_kind"
	ReasonTooLarge    Reason = "too_large"
	ReasonUnknown     Reason = "unknown"
	ReasonBlocked     Reason = "blocked" // it waits for another task of its key, which is dead: on_dead: block
)

// Known reports whether a letter can have this reason.
func (r Reason) Known() bool {
	switch r {
	case ReasonPermanent, ReasonExhausted, ReasonExpired, ReasonPoison, ReasonUndecodable, ReasonSchema,
		ReasonUnknownKind, ReasonTooLarge, ReasonUnknown, ReasonBlocked:
		return true
	}
	return false
}

// Effects says what a second run of a task can do.
type Effects string

// The promises a kind makes about its effects.
const (
	EffectsIdempotent Effects = "idempotent" // a second run changes nothing
	EffectsFenced     Effects = "fenced"     // the downstream refuses a lower run
	EffectsOnce       Effects = "once"       // never run again when in doubt
)

// Header names of a task record: the CloudEvents Kafka binding, binary mode,
// then ours, which are about delivery only.
const (
	HeaderSpecVersion  = "ce_specversion"
	HeaderID           = "ce_id"
	HeaderSource       = "ce_source"
	HeaderType         = "ce_type"
	HeaderTime         = "ce_time"
	HeaderPartitionKey = "ce_partitionkey"
	HeaderDataSchema   = "ce_dataschema"
	HeaderExpiry       = "ce_expirytime"
	HeaderTraceParent  = "ce_traceparent"
	HeaderContentType  = "content-type"

	HeaderAttempt = "perdure_attempt" // decimal; absent means 1
	HeaderEpoch   = "perdure_epoch"   // decimal; absent means 0
	HeaderRun     = "perdure_run"     // the last run granted; absent means 0
	HeaderTimer   = "perdure_timer"   // TimerElsewhere
	HeaderDue     = "perdure_due"     // not before, Unix milliseconds; absent means now
	HeaderQueue   = "perdure_queue"   // on retry.* only: the queue to return to
	HeaderOrder   = "perdure_order"   // "key": tasks of this key must not overlap
	HeaderUnique  = "perdure_unique"  // UniqueCompleted; absent: the task holds no key that its end gives back
	HeaderRepair  = "perdure_repair"  // decimal: how often a replay repaired the payload; absent means 0
	HeaderLine    = "perdure_line"    // of a key with on_dead: block: what the record is to its line, see Line
	HeaderPlace   = "perdure_place"   // decimal: one more than the offset that the task had first, before it waited or died
	HeaderNudge   = "perdure_nudge"   // on tasks.* of a shared queue: no task; it is there to be acknowledged

	// Dead letters only; see package dlq.
	HeaderRecord      = "perdure_record"  // letter | resolved
	HeaderOutcome     = "perdure_outcome" // of a resolution: what the task is, completed (absent means it) or cancelled
	HeaderReason      = "perdure_reason"
	HeaderErrorClass  = "perdure_error_class"
	HeaderFingerprint = "perdure_fingerprint"
	HeaderRelease     = "perdure_release"
	HeaderCatalog     = "perdure_catalog"
	HeaderAttempts    = "perdure_attempts"
	HeaderOnDead      = "perdure_on_dead"    // OnDeadBlock: the letter blocks its key
	HeaderBlockedBy   = "perdure_blocked_by" // the letter that the task waits for
	HeaderBlocks      = "perdure_blocks"     // of an answer: letters, a JSON array

	// Records of other systems only; see package dlq/imports.
	HeaderImported = "perdure_imported" // <import> <topic>/<partition>/<offset> of the dead letter that was sent back
)

// SpecVersion is the CloudEvents version that we write.
const SpecVersion = "1.0"

// SourcePrefix stands before the source's name in ce_source.
const SourcePrefix = "/perdure/"

// TimerElsewhere is the value of HeaderTimer: the task's work goes on elsewhere, and
// the record sees after it.
const TimerElsewhere = "elsewhere"

// UniqueCompleted is the value of HeaderUnique: the task holds a unique key until it
// has ended for good, and whoever ends it says so. An outbox row has it among its
// headers, under the same name.
const UniqueCompleted = "completed"

// MaxRepairs is how often a task's payload can be repaired.
const MaxRepairs = maxEpoch // each repair is a replay

// OnDeadBlock is the value of HeaderOnDead.
const OnDeadBlock = "block"

// Run numbers: epoch × 2^48 + incarnation × 2^24 + n, so that one number alone
// is the fence of a task.
const (
	RunEpochShift       = 48
	RunIncarnationShift = 24
)

// IsFirstRun reports whether a run is the first that an incarnation of Redis
// granted to its task in its epoch.
func IsFirstRun(run int64) bool { return run&(1<<RunIncarnationShift-1) == 1 }

// FirstRun is the lowest run of an epoch under an incarnation of Redis; a grant
// gives it plus n, n from 1.
func FirstRun(epoch int, incarnation int64) int64 {
	return int64(epoch)<<RunEpochShift + incarnation<<RunIncarnationShift
}
