package replayer

// Repairing payloads on their way into the outbox. The letter keeps the original;
// what a fixer does to one letter touches no other.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/schemas"
)

// fixError is why a fixer repaired a letter's payload not; the letter stays as it is.
type fixError string

func (e fixError) Error() string { return string(e) }

// fixLimit says at which limit a fixer was stopped; the letter is held.
type fixLimit string

func (e fixLimit) Error() string { return string(e) }

// subject is a letter as a fixer sees it.
type subject struct {
	candidate
	attempts    []byte // JSON
	contentType string
}

// remedy is what a fixer gives for a letter. The zero remedy: nothing.
type remedy struct {
	payload  []byte // nil = none
	decision string // replay | hold | discard; of an agent
	reason   string // of the decision
}

// repairer runs a plan's fixer; of one turn, not for concurrent use.
type repairer interface {
	// fix's error is a fixError, a fixLimit, or says that nothing can be fixed now.
	fix(ctx context.Context, s *subject) (remedy, error)
	close()
}

// Limits of one turn's repairs.
const (
	fixAtOnce    = 16 // letters whose payloads are read together
	agentsAtOnce = 4  // letters that an agent is asked about together
	fixStrikes   = 5  // letters in a row at whose limit a fixer was stopped end its replay
)

// repairer opens the fixer of a job.
func (r *Replayer) repairer(j *job) (repairer, error) {
	f := j.spec.Fixer
	if f.Name != "" {
		known := r.deps.Catalog.Fixers[f.Name]
		if known == nil || pin(known) != f.Pin {
			return nil, fmt.Errorf("%s is another in this replayer's catalog than when it was planned: plan it again", f.Name)
		}
		if known.JQ == "" {
			return r.agent(j, known)
		}
		f = &Fixer{JQ: known.JQ}
	}
	if len(f.Patch) > 0 {
		patch, wrong := parsePatch("#/fixer/patch", f.Patch)
		if wrong != nil {
			return nil, &SpecError{wrong}
		}
		return patcher(patch), nil
	}
	if len(r.deps.JQ) == 0 {
		return nil, errors.New("this replayer cannot run jq: it was not started as `perdure replayer` or `perdure up`")
	}
	return &jqFixer{jqchild.New(r.deps.JQ, f.JQ, schemas.MaxPayload)}, nil
}

// fix repairs the letters of list that may go, in their order, and says how many
// of list it came to: what is left has its turn later, because fixers take time
// and payloads take memory.
func (r *Replayer) fix(ctx context.Context, j *job, list []letter) (done int, err error) {
	fixer, err := r.repairer(j)
	if err != nil {
		j.stuck = "fixer: " + err.Error()
		return 0, nil
	}
	defer fixer.close()
	a, asks := fixer.(*agent)
	atOnce, ask := fixAtOnce, len(list)
	if asks {
		// A plan asks about no more letters than it shows: an agent's work may be
		// dear, and its next answer another.
		atOnce = agentsAtOnce
		if j.state == Planning {
			ask = max(Samples-int(j.looked), 0)
		}
	}
	until, size := time.Now().Add(r.cfg.Lease/3), 0
	for done < len(list) && size <= maxMoved && time.Now().Before(until) && j.stuck == "" {
		var some []*letter
		var at []int // in list
		for done < len(list) && len(some) < atOnce {
			if l := &list[done]; l.why == "" && ask == 0 {
				l.unasked = true
			} else if l.why == "" {
				ask--
				some, at = append(some, l), append(at, done)
			}
			done++
		}
		if asks && len(some) > 0 {
			if err := r.extend(ctx, j, a.timeout); err != nil {
				return 0, err
			}
		}
		n, err := r.fixSome(ctx, j, fixer, some)
		if err != nil {
			return 0, err
		}
		if n < len(some) {
			done = at[n]
		}
		for _, l := range some[:n] {
			size += len(l.fixed)
			if asks && j.state == Planning && !j.dryRun && l.why != "" {
				l.why, l.stopped, l.unasked = "", false, true // the run asks again
			}
		}
	}
	return done, nil
}

const readSubjects = `
select letter, coalesce(task_id, ''), coalesce(kind, ''), queue, coalesce(key, ''), reason, error_class, message, fingerprint, release, epoch,
  replays, died_at, payload, headers, attempts from perdure.dead_letters where letter = any($1::text[])`

// fixSome repairs letters until its fixer has to be left alone, and says how many
// it came to.
func (r *Replayer) fixSome(ctx context.Context, j *job, fixer repairer, list []*letter) (n int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.id
	}
	rows, err := r.deps.DB.Query(ctx, readSubjects, ids)
	if err != nil {
		return 0, fmt.Errorf("read letters to repair: %w", err)
	}
	subjects := make(map[string]*subject, len(list))
	if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (_ *subject, err error) {
		var s subject
		c := &s.candidate
		err = row.Scan(&c.Letter, &c.TaskID, &c.Kind, &c.Queue, &c.Key, &c.Reason, &c.ErrorClass, &c.Message, &c.Fingerprint, &c.Release, &c.Epoch,
			&c.Replays, &c.DiedAt, &c.Payload, &c.Headers, &s.attempts)
		subjects[c.Letter] = &s
		return nil, err
	}); err != nil {
		return 0, fmt.Errorf("read letters to repair: %w", err)
	}
	said := r.ask(ctx, fixer, list, subjects)
	var repaired []*letter
	for ; n < len(list) && j.stuck == ""; n++ {
		l := list[n]
		s := subjects[l.id]
		if s == nil { // left the index meanwhile
			l.why = noLetter(l.claim)
			continue
		}
		v, err := said(n)
		if err := r.remedied(j, l, s, v, err); err != nil {
			return 0, err
		}
		if l.fixed != nil {
			repaired = append(repaired, l)
		}
	}
	if len(repaired) == 0 || j.spec.Fixer.NoEffects != "" {
		return n, nil
	}
	never, err := r.neverRan(ctx, repaired)
	if err != nil {
		return 0, err
	}
	for _, l := range repaired {
		if l.run != 0 || l.claim.Run != 0 || !never[l.id] {
			l.fixed, l.why = nil, refuseEffects()
		}
	}
	return n, nil
}

// ask asks an agent about all letters at once, any other fixer when it is the
// letter's turn.
func (r *Replayer) ask(ctx context.Context, fixer repairer, list []*letter, subjects map[string]*subject) func(n int) (remedy, error) {
	one := func(n int) (remedy, error) {
		s := subjects[list[n].id]
		if s == nil {
			return remedy{}, nil
		}
		s.contentType = list[n].row.contentType
		return fixer.fix(ctx, s)
	}
	if _, asks := fixer.(*agent); !asks {
		return one
	}
	answers, errs := make([]remedy, len(list)), make([]error, len(list))
	var wg sync.WaitGroup
	for n := range list {
		wg.Go(func() { answers[n], errs[n] = one(n) })
	}
	wg.Wait()
	return func(n int) (remedy, error) { return answers[n], errs[n] }
}

// remedied makes of a letter what its fixer said. The error is the turn's.
func (r *Replayer) remedied(j *job, l *letter, s *subject, v remedy, err error) error {
	var unfit fixError
	var limit fixLimit
	var away fixAway
	if !errors.As(err, &limit) && !errors.As(err, &away) {
		delete(r.strikes, j.id)
	} else if r.strikes[j.id]++; r.strikes[j.id] >= fixStrikes {
		j.stuck = fmt.Sprintf("fixer: it was stopped at a limit for %d letters in a row; the last: %s", fixStrikes, err)
		if limit == "" {
			j.stuck = fmt.Sprintf("fixer: it gave no answer for %d letters in a row; the last: %s", fixStrikes, err)
		}
		j.stuck = storable(j.stuck)
		delete(r.strikes, j.id)
	}
	switch {
	case errors.As(err, &limit):
		l.why, l.stopped = refuse(heldWord, "its fixer was stopped at a limit: %s", limit), true
	case errors.As(err, &away):
		l.why = refuse("fixer", "%s", away)
	case errors.As(err, &unfit):
		l.why = refuse("fixer", "%s", unfit)
	case err != nil:
		return fmt.Errorf("repair %s: %w", l.id, err)
	case v.decision == "replay":
	case v.decision == "hold":
		l.why = refuse(heldWord, "its fixer says: %s", v.reason)
	case v.decision == "discard":
		l.why, l.discard = refuse("discarded", "its fixer says: %s", v.reason), true
	case v.payload == nil:
		l.why = refuse("unfixed", "the fixer gave nothing for it")
	case len(v.payload) > schemas.MaxPayload:
		l.why = refuse(string(schemas.ReasonTooLarge), "its repaired payload is larger than %d bytes", schemas.MaxPayload)
	case bytes.Equal(v.payload, s.Payload), schemas.IsJSON(s.contentType) && sameJSON(v.payload, s.Payload):
		// Not repaired, so it is judged and goes as it is.
	case l.row.repairs >= schemas.MaxRepairs:
		l.why = refuse("fixer", "it was repaired %d times already", l.row.repairs)
	default:
		if l.why = misfit(r.deps.Catalog.Kinds[l.kind], v.payload, s.contentType); l.why != "" {
			l.why = refuse(string(schemas.ReasonSchema), "repaired, %s", l.why.text())
			return nil
		}
		l.fixed, l.size = v.payload, len(v.payload)
		l.row.repairs++
		l.why = l.row.encode()
	}
	return nil
}

// sameJSON reports whether two texts are one value, numbers as they are written.
func sameJSON(a, b []byte) bool {
	x, err1 := decodeJSON(a)
	y, err2 := decodeJSON(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

func decodeJSON(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return v, d.Decode(&v)
}

var errNotJSON = fixError("its payload is not JSON, which this fixer needs")

// patcher is a JSON Patch as a repairer.
type patcher jsonpatch.Patch

func (p patcher) fix(_ context.Context, s *subject) (remedy, error) {
	if !schemas.IsJSON(s.contentType) || !json.Valid(s.Payload) {
		return remedy{}, errNotJSON
	}
	fixed, err := applyPatch(jsonpatch.Patch(p), s.Payload)
	return remedy{payload: fixed}, err
}

func (p patcher) close() {}

// jqFixer is a jq program as a repairer.
type jqFixer struct{ child *jqchild.Child }

func (f *jqFixer) fix(ctx context.Context, s *subject) (remedy, error) {
	if !schemas.IsJSON(s.contentType) || !json.Valid(s.Payload) {
		return remedy{}, errNotJSON
	}
	doc := s.Document()
	delete(doc, "payload") // it is the program's input
	about, err := json.Marshal(doc)
	if err != nil {
		return remedy{}, err
	}
	fixed, err := f.child.Run(ctx, about, s.Payload)
	var program jqchild.ProgramError
	switch {
	case jqchild.IsLimit(err):
		return remedy{}, fixLimit(err.Error())
	case errors.As(err, &program):
		return remedy{}, fixError(program)
	}
	return remedy{payload: fixed}, err
}

func (f *jqFixer) close() { f.child.Close() }
