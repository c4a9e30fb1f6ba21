package claims

// The words of the protocol: records, claims, verdicts, outcomes.

import "time"

// Coord is where a record lies in Kafka.
type Coord struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Record is what a worker asks about: a task's record as it was fetched.
type Record struct {
	TaskID  string
	Epoch   int
	Attempt int
	Run     int64 // the last run that the record knows of; a grant is always higher
	Coord   Coord
	Once    bool // effects: once; in doubt it is never run again
	Known   bool // it has a claim, as far as its asker knows: a hint, which only saves a question
	Shared  bool // from a share group: other records of the task may stand in for this one, wherever they lie
	Timer   bool // produced to see after work that goes on elsewhere: WaitOutcome.Elsewhere
	Ends    bool // it is to die without a run (its deadline passed), whatever is heard from elsewhere
	Alone   bool // nothing else runs in this process, and nothing will start before this has ended
}

// State of a claim.
type State string

// The states of a claim.
const (
	None      State = ""
	Running   State = "R"
	Waiting   State = "W"
	Dead      State = "D"
	Cancelled State = "C"
	Done      State = "done"
)

// Claim is what is known of a task now; the zero Claim is None.
type Claim struct {
	State   State
	Epoch   int
	Attempt int   // Running: this attempt; Waiting: the attempt that it waits for
	Run     int64 // the last run granted
	Owner   string
	Coord   Coord
	Crashes int       // owners that went silent while they ran it, in this epoch
	Own     int       // those of them that ran nothing else: only these condemn it
	Due     time.Time // Waiting: not before; zero = unknown
	History []byte    // Waiting and Dead: the bounded failure history, opaque here
	Cancel  bool      // Running: someone asked to cancel
	Reason  string    // Dead: the dead letter's reason

	AtRecord  bool          // Waiting: in the worker, at Coord (WaitOutcome.Local)
	Elsewhere time.Duration // Waiting: for work that goes on elsewhere, which may be silent for so long; 0 = it does not
	Left      time.Duration // of VerdictRetry and VerdictWait: it was heard of, and may be silent for so long from now on
	Report    []byte        // Waiting, and Running until it is acted on: how work elsewhere failed, opaque here; nil = no report

	// Stale, of Running and Waiting and told by Get alone: it stands as an earlier
	// life of Redis left it, and no owner has asserted it since. What came after
	// it may have been lost.
	Stale bool
}

// Verdict is what a worker does with a record it asked about.
type Verdict uint8

// The verdicts. Run carries Grant.Run and Grant.Attempt; all others start nothing.
const (
	VerdictRun     Verdict = iota + 1 // run it: Running is written in this worker's name
	VerdictAck                        // duplicate, stale or cancelled: acknowledge, no run
	VerdictPark                       // someone may be running it: ask again later, never acknowledge
	VerdictWait                       // its retry waits at this very record: wait until Claim.Due here, then ask again with Claim.Attempt
	VerdictRetry                      // the retry's record may be missing: produce attempt Claim.Attempt again, then acknowledge
	VerdictLetter                     // dead at this epoch: produce the letter again (reason in Claim.Reason), then acknowledge
	VerdictResolve                    // done at an epoch above 0: produce resolved again, then acknowledge
	VerdictAlone                      // a suspect: nothing was changed; ask again with Record.Alone once nothing else runs here
)

// SuspectCrashes is how many crashes make a task a suspect: from then on it is
// granted only to a worker that runs nothing else meanwhile.
const SuspectCrashes = 2

// Grant is the answer for one Record.
type Grant struct {
	Verdict Verdict
	Run     int64  // VerdictRun: the run granted; higher than every earlier one
	Attempt int    // VerdictRun: the attempt to run
	InDoubt bool   // VerdictRun: an earlier owner went silent, its effect may have happened
	Unheard bool   // InDoubt: it was no owner, but work that went on elsewhere
	Claim   Claim  // the claim as it stands after this call
	Lease   *Lease // VerdictRun: where the grant stands, to be given back with its outcome; nil = in a hash of its own
}
