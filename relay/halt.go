package relay

// Halting: what a person must decide before anything more is relayed.

import (
	"errors"
	"fmt"
)

// HaltReason names what was found.
type HaltReason string

// The reasons to halt.
const (
	HaltStandby    HaltReason = "standby"    // the server is in recovery
	HaltSource     HaltReason = "source"     // the database, or Kafka, has this source under another name or cluster
	HaltSystem     HaltReason = "system"     // the cursor is of another cluster
	HaltDatabase   HaltReason = "database"   // the cursor is of another database of this cluster
	HaltTimeline   HaltReason = "timeline"   // the cluster was promoted or restored since
	HaltSnapshot   HaltReason = "snapshot"   // the cursor's snapshot is ahead of the server's transactions
	HaltSequence   HaltReason = "sequence"   // Kafka has ids that the sequence has not reached
	HaltGeneration HaltReason = "generation" // Kafka knows a later generation than the database
	HaltPooler     HaltReason = "pooler"     // the connection changes its backend
)

// HaltError says that relaying on could lose tasks or use an id twice. Nothing
// was changed. Error says what was found and what to do.
type HaltError struct {
	Reason HaltReason
	Found  string
	Mend   string
}

func (e *HaltError) Error() string {
	return fmt.Sprintf("relay halted (%s): %s: %s", e.Reason, e.Found, e.Mend)
}

func halt(reason HaltReason, mend, found string, args ...any) *HaltError {
	return &HaltError{Reason: reason, Found: fmt.Sprintf(found, args...), Mend: mend}
}

func isHalt(err error) bool {
	var h *HaltError
	return errors.As(err, &h)
}

// errLeaseLost ends a term: another relay holds the lease, or may.
var errLeaseLost = errors.New("the relay's lease is lost")
