package replayer

// Letters in doubt: nobody knows whether the effect of a kind with effects: once
// happened (reason unknown), or that it did not (Redis no longer knows the task). Their
// kind's hook is asked before they move; where there is none, or it cannot tell, a
// person decides, by its id and with a reason.

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/reconcile"
	"github.com/perdure/perdure/schemas"
)

// Words that begin the refusals of letters in doubt.
const (
	unknownWord  = "unknown"
	unprovenWord = "unproven"
)

func (r refusal) doubt() bool {
	return r.word() == unknownWord || r.word() == unprovenWord
}

// abandonedClass is of an attempt whose handler may be running still, so that no
// answer would hold; the worker asks nothing about it either.
const abandonedClass = "abandoned"

// consult settles the doubts of list, in its order, and says how many of list it came
// to: hooks take time. A plan asks none, whose answer may close a door: the run does.
func (r *Replayer) consult(ctx context.Context, j *job, list []letter) (done int, err error) {
	until, silent := time.Now().Add(r.cfg.Lease/3), 0
	for done < len(list) && (done == 0 || time.Now().Before(until)) && j.stuck == "" {
		var some []*letter
		var longest time.Duration
		for ; done < len(list) && len(some) < agentsAtOnce; done++ {
			l := &list[done]
			switch kind := r.deps.Catalog.Kinds[l.kind]; {
			case !l.why.doubt():
			case kind.Reconcile == nil || l.class == abandonedClass:
				l.why = j.person(l, l.why.text())
			case j.state == Planning:
				l.why = ""
			default:
				some, longest = append(some, l), max(longest, kind.Timeout)
			}
		}
		if len(some) == 0 {
			continue
		}
		if err := r.extend(ctx, j, longest); err != nil {
			return 0, err
		}
		questions, err := r.questions(ctx, some)
		if err != nil {
			return 0, err
		}
		verdicts, errs := make([]reconcile.Verdict, len(some)), make([]error, len(some))
		var wg sync.WaitGroup
		for i, l := range some {
			if q := questions[l.id]; q != nil {
				wg.Go(func() { verdicts[i], errs[i] = r.askHook(ctx, r.deps.Catalog.Kinds[l.kind], q) })
			}
		}
		wg.Wait()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		r.step("consulted")
		for i, l := range some {
			switch {
			case questions[l.id] == nil: // left the index meanwhile
				l.why = noLetter(l.claim)
			case errs[i] != nil:
				l.why = j.person(l, "its reconcile hook gave no answer: "+errs[i].Error())
				if silent++; silent >= fixStrikes {
					j.stuck = storable(fmt.Sprintf("reconcile: it gave no answer for %d letters; the last: %s", silent, errs[i]))
				}
			case verdicts[i] == reconcile.Happened:
				l.why = refuse(completedWord, happened)
			case verdicts[i] == reconcile.DidNotHappen:
				l.why = ""
			default:
				l.why = j.person(l, "its reconcile hook cannot tell whether its effect happened")
			}
		}
	}
	return done, nil
}

// happened is also what the audit says of its letter.
const happened = "its effect happened, says its reconcile hook"

// person lets a letter in doubt go if a person named it and said why; the reason is in
// the audit with the letter.
func (j *job) person(l *letter, doubt string) refusal {
	if l.named && strings.TrimSpace(j.why) != "" {
		return ""
	}
	word := l.why.word()
	return refuse(word, "%s; find out: if it did not happen, replay it by its id with a reason (--why), else discard it", doubt)
}

func (r *Replayer) askHook(ctx context.Context, kind *schemas.Kind, q *reconcile.Question) (reconcile.Verdict, error) {
	hook, err := reconcile.NewHTTP(kind, r.transport, r.deps.Getenv)
	if err != nil {
		return reconcile.CannotTell, err
	}
	ctx, cancel := context.WithTimeout(ctx, kind.Timeout)
	defer cancel()
	return hook.Ask(ctx, q)
}

// questions are those about letters, by letter, with the attempt and the run in doubt.
func (r *Replayer) questions(ctx context.Context, list []*letter) (map[string]*reconcile.Question, error) {
	ids, at := make([]string, len(list)), make(map[string]*letter, len(list))
	for i, l := range list {
		ids[i], at[l.id] = l.id, l
	}
	rows, err := r.deps.DB.Query(ctx, `select letter, payload, attempts from perdure.letters where letter = any($1::text[])`, ids)
	if err != nil {
		return nil, fmt.Errorf("read letters in doubt: %w", err)
	}
	questions := make(map[string]*reconcile.Question, len(list))
	var id string
	var payload, attempts []byte
	if _, err := pgx.ForEachRow(rows, []any{&id, &payload, &attempts}, func() error {
		l := at[id]
		hs, err := dlq.DecodeHeaders(l.headers)
		if err != nil {
			return err // rebuild has read them
		}
		t, err := schemas.DecodeRecord(l.key, payload, hs)
		if err != nil {
			return err
		}
		q := &reconcile.Question{Task: &t, Attempt: max(t.Attempt, 1), Run: l.run}
		if tries, err := dlq.DecodeAttempts(attempts); err == nil && len(tries) > 0 {
			q.Attempt = max(tries[len(tries)-1].N, q.Attempt)
		}
		questions[id] = q
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read letters in doubt: %w", err)
	}
	return questions, nil
}
