package dlq

// A jq condition over letters: it comes from a person's command line, and runs in a
// process of its own (internal/jqchild), which it may hang or fill.

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jqchild"
)

// SyntaxError is wrong text of a program, with where it is wrong.
type SyntaxError struct {
	Pointer string // of the request
	Offset  int    // bytes into the text
	Text    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("at byte %d: %s", e.Offset, e.Text) }

// Fields are the error as an answer tells it.
func (e *SyntaxError) Fields() []api.FieldError {
	return []api.FieldError{{Pointer: e.Pointer, Detail: e.Error()}}
}

// CompileJQ parses and compiles a program; pointer says where it stood.
func CompileJQ(pointer, src string, options ...gojq.CompilerOption) (*gojq.Code, error) {
	q, err := gojq.Parse(src)
	if err != nil {
		e := &SyntaxError{Pointer: pointer, Text: err.Error()}
		var pe *gojq.ParseError
		if errors.As(err, &pe) {
			e.Offset = max(pe.Offset-len(pe.Token), 0)
		}
		return nil, e
	}
	code, err := gojq.Compile(q, options...) // no environment, no modules, no input
	if err != nil {
		return nil, &SyntaxError{Pointer: pointer, Offset: place(src, err.Error()), Text: err.Error()}
	}
	return code, nil
}

// place finds the name that a compiler's error is about: it says no position.
// "function not defined: nope/1", "input(s)/0 is not allowed".
func place(src, text string) int {
	for _, word := range strings.Fields(text) {
		if name, _, ok := strings.Cut(word, "/"); ok {
			return max(strings.Index(src, strings.TrimSuffix(name, "(s)")), 0)
		}
	}
	return 0
}

// Candidate is a letter as a condition sees it.
type Candidate struct {
	Letter, TaskID, Kind, Queue, Key, Reason, ErrorClass, Message, Fingerprint, Release string

	Epoch, Replays int
	DiedAt         time.Time
	Payload        []byte
	Headers        []byte // as dlq keeps them
}

// Document is what jq gets: payload null where it is not JSON.
func (c *Candidate) Document() map[string]any {
	headers := map[string]any{}
	if hs, err := DecodeHeaders(c.Headers); err == nil {
		for _, h := range hs {
			headers[h.Key] = string(h.Value)
		}
	}
	var payload any
	if json.Valid(c.Payload) {
		payload = json.RawMessage(c.Payload) // its numbers keep their digits
	}
	return map[string]any{
		"letter": c.Letter, "task_id": c.TaskID, "epoch": c.Epoch, "kind": c.Kind, "queue": c.Queue, "key": c.Key,
		"reason": c.Reason, "error_class": c.ErrorClass, "message": c.Message, "group": c.Fingerprint, "release": c.Release,
		"replays": c.Replays, "died_at": c.DiedAt.UTC().Format(time.RFC3339), "headers": headers, "payload": payload,
	}
}

// Condition is a program that says true or false of a letter: by its first answer.
func Condition(where string) string {
	return "first((" + where + "\n)) == true" // the line ends a comment
}

// Matches is what a condition's answer comes to. An error in it (a field of a
// number, say) is no match, as in a search; a limit is the plan's error.
func Matches(value []byte, err error) (bool, error) {
	var program jqchild.ProgramError
	switch {
	case errors.As(err, &program) && program == jqchild.Halts:
		return false, errors.New("the condition halts")
	case errors.As(err, &program):
		return false, nil
	case jqchild.IsLimit(err):
		return false, fmt.Errorf("the condition was stopped for one letter: %w", err)
	}
	return string(value) == "true", err
}
