package replayer

// May this letter be replayed? The rule of I7: never a task that is completed,
// and never one of which that cannot be ruled out where it would matter.

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// letter is what is looked at before a letter moves; its payload stays in Postgres.
type letter struct {
	n       int64 // place in the job
	id      string
	found   bool
	taskID  string
	epoch   int
	kind    string
	queue   string
	state   schemas.LetterState
	reason  schemas.Reason
	class   string // of the error
	run     int64
	cut     bool
	size    int // bytes of payload
	key     []byte
	headers []byte // dlq.DecodeHeaders
	expired bool   // by the database's clock
	ended   string // how its task ended, if a resolution says so: completed or cancelled
	taken   string // another replay that is at work and has it; only asked while planning

	block       bool   // on_dead: block
	place       int64  // the offset that the task had first; read where it blocks, or waits for one that does
	contentType string // as the index has it
	named       bool   // the selector named it by id

	markAt, stateAt, letterAt pgtype.TID // where its rows were read: in the plan, of its state, its own

	claim   claims.Claim // as it was read
	fixed   []byte       // the repaired payload; nil = it goes as it is
	stopped bool         // its fixer was, at a limit
	discard bool         // its fixer says so
	unasked bool         // of a plan: an agent was not asked yet

	row outboxRow // what its replay writes
	why refusal   // "" = it may go
}

// refusal says why a letter is not replayed: a word that stays, and a text.
// "" = it may go.
type refusal string

func refuse(word, format string, args ...any) refusal {
	return refusal(word + ": " + storable(fmt.Sprintf(format, args...)))
}

// storable is a text as Postgres can hold it: what is said of a letter has names
// from its payload and an agent's words in it, and must not stop the letters after.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Words of refusals that something asks for; those of letters in doubt are with consult.
const (
	completedWord = "completed" // the task is
	heldWord      = "held"      // for a person
	runningWord   = "running"   // the task is, or waits for a retry
)

func (r refusal) word() string {
	word, _, _ := strings.Cut(string(r), ":")
	return word
}

func (r refusal) completed() bool { return r.word() == completedWord }

func (r refusal) held() bool { return r.word() == heldWord }

// text is what follows the word.
func (r refusal) text() string {
	_, text, _ := strings.Cut(string(r), ": ")
	return text
}

// before is judged without Redis: letters that cannot move whatever it says.
func before(l *letter, cat *schemas.Catalog) refusal {
	switch {
	case !l.found:
		return noLetter(claims.Claim{})
	case l.state == schemas.LetterResolved:
		return refuse("resolved", "this letter is settled already")
	case l.ended == "cancelled" && l.reason != schemas.ReasonUndecodable:
		return refuse("cancelled", "the task was cancelled")
	case l.ended != "" && l.reason != schemas.ReasonUndecodable:
		return refuse(completedWord, "the task is completed, says the record of its end")
	case l.reason == schemas.ReasonBlocked:
		return refuse(string(schemas.ReasonBlocked), "it waits behind another task of its key: replay or discard that one's letter, and this one goes on by itself")
	case l.state == schemas.LetterReplaying:
		return refuse("replaying", "another replay took this letter")
	case l.state != schemas.LetterOpen && (l.state != schemas.LetterHeld || !l.named):
		return refuse(string(l.state), "only open letters are replayed")
	case l.taken != "":
		return refuse("replaying", "replay %s is at work and has this letter", l.taken)
	case l.reason == schemas.ReasonUndecodable || l.taskID == "":
		return refuse("undecodable", "nothing says which task this was; enqueue its content as a new task")
	case l.cut || l.size == 0:
		return refuse("cut", "the letter does not hold the whole payload")
	case cat.Kinds[l.kind] == nil:
		return refuse("unknown_kind", "kind %s is not in the catalog", l.kind)
	case cat.Queues[l.queue] == nil:
		return refuse("unknown_queue", "queue %s is not in the catalog", l.queue)
	case cat.Kinds[l.kind].Queue != l.queue:
		return refuse("moved", "kind %s runs on queue %s now, and no worker knows it on %s: enqueue its content as a new task", l.kind, cat.Kinds[l.kind].Queue, l.queue)
	case l.expired:
		return refuse("expired", "its deadline has passed: it would only die again; enqueue it as a new task")
	case cat.Replays.MaxReplays > 0 && l.epoch >= cat.Replays.MaxReplays && !l.named:
		return refuse(heldWord, "it was replayed %d times already; look at it, then replay it by its id", l.epoch)
	case l.reason == schemas.ReasonUnknown && !l.named && cat.Kinds[l.kind].Reconcile == nil:
		return refuse(unknownWord, "its effect may have happened; look at it, then replay it by its id with a reason (--why)")
	}
	return ""
}

// noLetter refuses an id that no letter has. If it is a task's, its claim may
// say why there is none.
func noLetter(c claims.Claim) refusal {
	switch c.State {
	case claims.Done:
		return refuse(completedWord, "the task is completed, and left no dead letter")
	case claims.Cancelled:
		return refuse("cancelled", "the task was cancelled, and left no dead letter")
	case claims.Running, claims.Waiting:
		return refuse(runningWord, "the task is not dead: it is running or waits for a retry")
	}
	return refuse("not-found", "no dead letter has this id")
}

// judge adds what Redis knows. Positive proof that the task is not completed is
// a claim that is dead at this very epoch, or a letter that was made before any
// run was granted. Where Redis no longer knows, a second run of an idempotent or
// fenced kind is harmless; one of `effects: once` is in doubt: see consult.
//
// The claim is read before the letter moves, and may change in between: a task
// that is completed meanwhile has done, which absorbs the replay's record too.
func judge(l *letter, c claims.Claim, kind *schemas.Kind) refusal {
	switch c.State {
	case claims.Done:
		return refuse(completedWord, "the task is completed")
	case claims.Cancelled:
		return refuse("cancelled", "the task was cancelled")
	case claims.Running, claims.Waiting:
		if c.Stale && c.Epoch <= l.epoch {
			// Its death, which the letter tells, was lost in a failover. No record
			// of it is left that could decide the claim: Redis no longer knows.
			break
		}
		return refuse(runningWord, "the task is running or waits for a retry (epoch %d); look again later", c.Epoch)
	case claims.Dead:
		if c.Epoch == l.epoch {
			return ""
		}
		if c.Epoch > l.epoch {
			return refuse("newer", "the task died again at epoch %d; replay that letter", c.Epoch)
		}
	}
	if l.run == 0 || kind.Effects != schemas.EffectsOnce {
		return ""
	}
	return refuse(unprovenWord, "Redis no longer knows the task, and its effect must not happen twice")
}

// misfit refuses a payload that the kind's current schema refuses.
func misfit(kind *schemas.Kind, payload []byte, contentType string) refusal {
	wrong := kind.ValidatePayload(payload, contentType)
	if len(wrong) == 0 {
		return ""
	}
	return refuse(string(schemas.ReasonSchema), "its payload does not fit the kind's schema: %s %s", wrong[0].Pointer, wrong[0].Detail)
}

// outboxRow is what a replay's row takes from the letter's headers; task id,
// epoch, queue and payload are taken in SQL.
type outboxRow struct {
	key         *string
	contentType string
	headers     []byte // JSON of user and repairs; nil = none
	user        map[string]string
	repairs     int // of the payload, this replay's included
}

// encode makes headers.
func (row *outboxRow) encode() refusal {
	if row.repairs > 0 {
		row.user[schemas.HeaderRepair] = strconv.Itoa(row.repairs)
	}
	row.headers = nil
	if len(row.user) == 0 {
		return ""
	}
	var err error
	if row.headers, err = json.Marshal(row.user); err != nil {
		return refuse("undecodable", "%v", err)
	}
	return ""
}

// rebuild reads the original's headers as a worker would.
func rebuild(l *letter) (outboxRow, refusal) {
	var row outboxRow
	hs, err := dlq.DecodeHeaders(l.headers)
	if err != nil {
		return row, refuse("undecodable", "the headers kept with the letter cannot be read")
	}
	return rebuildFrom(l, hs)
}

// rebuildFor is rebuild with what the task is to its key's line.
func rebuildFor(l *letter, line string) (row outboxRow, why refusal) {
	if row, why = rebuild(l); why != "" {
		return row, why
	}
	row.user[schemas.HeaderLine], row.user[schemas.HeaderPlace] = line, placeHeader(l)
	return row, row.encode()
}

// placeHeader is the offset that the task had first, plus one.
func placeHeader(l *letter) string { return strconv.FormatInt(l.place+1, 10) }

func rebuildFrom(l *letter, hs []kgo.RecordHeader) (row outboxRow, _ refusal) {
	// The value is checked by its size alone, so that it need not travel.
	t, err := schemas.DecodeRecord(l.key, []byte{'0'}, hs)
	if err != nil {
		return row, refuse("undecodable", "%v", err)
	}
	if t.ID != l.taskID || t.Epoch != l.epoch || t.Kind != l.kind {
		return row, refuse("undecodable", "the headers kept with the letter are another task's")
	}
	if l.size > schemas.MaxPayload {
		return row, refuse(string(schemas.ReasonTooLarge), "its payload is larger than %d bytes", schemas.MaxPayload)
	}
	if t.Key != "" {
		row.key = &t.Key
	}
	row.contentType = t.ContentType
	user := map[string]string{}
	for name, value := range t.Headers {
		user[name] = value
	}
	if t.TraceParent != "" {
		// As the producer gave it: the hop's own belong to the run that died.
		user["traceparent"] = t.TraceParent
	}
	if t.Unique {
		user[schemas.HeaderUnique] = schemas.UniqueCompleted // it holds its key still
	}
	if l.block {
		user[schemas.HeaderPlace] = placeHeader(l)
	}
	row.user, row.repairs = user, t.Repair
	return row, row.encode()
}
