package dlq

// Lists with a condition: by a header, or by what a payload holds. No index has that:
// the letters that the other filters choose are looked at one by one, a bounded number
// for each page.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/jqchild"
)

// Bounds of one page: whoever wants more follows the cursor.
const (
	MostLooked  = 2000            // letters that a page looks at
	mostLong    = 5 * time.Second // that a page takes
	whereAtOnce = 2               // conditions that a process runs at once
	whereFinds  = 256             // letters that are found between two looks at the clock
)

// ErrNoJQ is returned where there is no jq: only the programs of Perdure know how to start the process.
var ErrNoJQ = errors.New("this process cannot run jq: it was not started as `perdure dispatcher` or `perdure up`")

// WithJQ lets lists have conditions: command starts a process that calls jqchild.Serve.
// It returns s.
func (s *Letters) WithJQ(command []string) *Letters {
	s.jq, s.conditions = command, make(chan struct{}, whereAtOnce)
	return s
}

// StoppedError is a condition that was stopped at a limit, or that halts, and for which letter.
type StoppedError struct {
	Letter string
	Err    error
}

func (e *StoppedError) Error() string { return fmt.Sprintf("%v (%s)", e.Err, e.Letter) }

// Where is List for the letters for which the condition is true. looked is how many
// letters it looked at; there may be fewer than limit and yet a cursor. The error is a
// *SyntaxError or a *StoppedError if the condition is wrong.
func (s *Letters) Where(ctx context.Context, f Filter, where, cursor string, limit int) (list []Entry, next string, looked int, err error) {
	if err := s.ready(where); err != nil {
		return nil, "", 0, err
	}
	before, beforeID, err := startOf(cursor)
	if err != nil {
		return nil, "", 0, err
	}
	groups, err := s.groups(ctx, &f) // not pageGroups, as in Each
	if err != nil {
		return nil, "", 0, err
	}
	select {
	case s.conditions <- struct{}{}:
		defer func() { <-s.conditions }()
	case <-ctx.Done():
		return nil, "", 0, ctx.Err()
	}
	child := jqchild.New(s.jq, Condition(where), len("false"))
	defer child.Close()
	before, beforeID = f.until(before, beforeID)
	x := s.finder(&f, groups, before, beforeID)
	x.most = whereFinds
	var rest []found
	for began := time.Now(); looked < MostLooked && time.Since(began) < s.longest; {
		if len(rest) == 0 {
			if rest, err = x.next(ctx); err != nil {
				return nil, "", 0, err
			}
			if len(rest) == 0 {
				return list, "", looked, nil
			}
		}
		part := rest[:min(exportPage, len(rest))]
		rest = rest[len(part):]
		page, err := s.readFound(ctx, &f, groups, part)
		if err != nil {
			return nil, "", 0, err
		}
		end := began.Add(s.longest)
		taken, err := s.judge(ctx, child, page, func(e *Entry, yes bool) error {
			if yes {
				e := *e
				e.Attempts, e.Payload, e.Headers = nil, nil, nil // as in every list
				list = append(list, e)
			}
			if len(list) == limit || time.Now().After(end) {
				return errEnough
			}
			return nil
		})
		if err != nil && (looked+taken == 0 || ctx.Err() != nil) {
			return nil, "", 0, err
		}
		looked += taken
		if taken < len(page) {
			if taken > 0 { // else the first has no answer: the next call begins with it, and says so
				next = formatCursor(page[taken-1].DiedAt, page[taken-1].Letter)
			}
			break
		}
		if len(rest) == 0 && x.ended {
			return list, "", looked, nil
		}
		last := &part[len(part)-1]
		next = formatCursor(last.DiedAt, last.Letter)
		if len(list) == limit {
			break
		}
	}
	return list, next, looked, nil
}

// errEnough ends a page before its end.
var errEnough = errors.New("enough was looked at")

// judge tells each of a page's letters with whether the condition is true for it, until
// each says errEnough. taken is how many of the page it came to; err is of the one
// behind them.
func (s *Letters) judge(ctx context.Context, child *jqchild.Child, page []Entry, each func(e *Entry, yes bool) error) (taken int, err error) {
	docs := make([][]byte, len(page))
	for i := range page {
		e := &page[i]
		c := Candidate{Letter: e.Letter, TaskID: e.TaskID, Kind: e.Kind, Queue: e.Queue, Key: e.Key, Reason: e.Reason, ErrorClass: e.ErrorClass, Message: e.Message,
			Fingerprint: e.Group, Release: e.Release, Epoch: e.Epoch, Replays: e.Replays, DiedAt: e.DiedAt, Payload: e.Payload, Headers: e.Headers}
		if docs[i], err = json.Marshal(c.Document()); err != nil {
			return 0, fmt.Errorf("letter %s as JSON: %w", e.Letter, err)
		}
	}
	err = child.RunAll(ctx, docs, func(i int, value []byte, err error) error {
		yes, err := Matches(value, err)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &StoppedError{page[i].Letter, err}
		}
		taken = i + 1
		return each(&page[i], yes)
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return taken, err
}

// EachWhere is Each for the letters for which the condition is true. The error is a
// *SyntaxError or a *StoppedError if the condition is wrong.
func (s *Letters) EachWhere(ctx context.Context, f Filter, where string, each func(*Entry) error) error {
	if err := s.ready(where); err != nil {
		return err
	}
	child := jqchild.New(s.jq, Condition(where), len("false"))
	defer child.Close()
	return s.eachPage(ctx, f, func(page []Entry) error {
		select { // for a page: a reader may be slow
		case s.conditions <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		chosen := make([]*Entry, 0, len(page))
		_, failed := s.judge(ctx, child, page, func(e *Entry, yes bool) error {
			if yes {
				chosen = append(chosen, e)
			}
			return nil
		})
		<-s.conditions
		for _, e := range chosen {
			if err := each(e); err != nil {
				return err
			}
		}
		return failed
	})
}

// ready says what keeps a condition from being asked.
func (s *Letters) ready(where string) error {
	if _, err := CompileJQ("#/query/where", where); err != nil {
		return err
	}
	if len(s.jq) == 0 {
		return ErrNoJQ
	}
	return nil
}

// MostLookedForGroups is how many letters a list of groups by a condition looks at.
const MostLookedForGroups = 10_000

// GroupsWhere is Groups for those that have a letter for which the condition is true, of
// the latest letters that f chooses. looked is how many it looked at; more: there are
// older ones.
func (s *Letters) GroupsWhere(ctx context.Context, f Filter, where string, limit int) (list []Group, looked int, more bool, err error) {
	matched := map[string]int64{}
	cursor := ""
	for began := time.Now(); ; {
		page, next, n, err := s.Where(ctx, f, where, cursor, MostLooked)
		if err != nil {
			return nil, 0, false, err
		}
		for i := range page {
			matched[page[i].Group]++
		}
		looked += n
		if cursor = next; cursor == "" || looked >= MostLookedForGroups || time.Since(began) > s.longest {
			break
		}
	}
	if len(matched) == 0 {
		return nil, looked, cursor != "", nil
	}
	if list, err = s.groupsOf(ctx, f, slices.Sorted(maps.Keys(matched)), limit); err != nil {
		return nil, 0, false, err
	}
	for i := range list {
		list[i].Matched = matched[list[i].Group]
	}
	return list, looked, cursor != "", nil
}
