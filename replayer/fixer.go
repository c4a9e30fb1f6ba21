package replayer

// What a plan says of repairing payloads: the fixer, which its hash pins.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jqchild"
)

// Fixer repairs the payloads of a replay's letters, each on its way into the
// outbox. One of its programs must be given.
type Fixer struct {
	Name  string          `json:"name,omitempty" doc:"one of the catalog's fixers"`
	Pin   string          `json:"pin,omitempty" readOnly:"true" doc:"SHA-256 of the catalog's fixer as it was when it was planned"`
	Patch json.RawMessage `json:"patch,omitempty" doc:"JSON Patch (RFC 6902) of the payload"`
	JQ    string          `json:"jq,omitempty" maxLength:"10000" doc:"jq over the payload: its one value is the payload from now on; no value leaves the letter as it is, not replayed. $letter is the letter, as where sees it"`
	// NoEffects is a person's decision; without it a payload is repaired only if no
	// run of the task can have had an effect.
	NoEffects string `json:"no_effects,omitempty" maxLength:"2000" doc:"why tasks may be repaired that have run before: a repaired one has another idempotency key, so that what its earlier runs did would be done again"`
}

// fixerNamed is nil for "".
func fixerNamed(name string) *Fixer {
	if name == "" {
		return nil
	}
	return &Fixer{Name: name}
}

// pinned is a plan's fixer with what the catalog says of it.
func (j *Jobs) pinned(f *Fixer) (*Fixer, error) {
	if f == nil {
		return nil, nil
	}
	p := *f
	p.Pin = ""
	if p.Name == "" {
		return &p, nil
	}
	known := j.fixers[p.Name]
	if known == nil {
		return nil, &SpecError{[]api.FieldError{{Pointer: "#/fixer/name", Detail: "is not among the catalog's fixers"}}}
	}
	if known.JQ != "" {
		if _, err := dlq.CompileJQ("#/fixer/name", known.JQ, jqchild.Letter); err != nil {
			return nil, err
		}
	}
	p.Pin = pin(known)
	return &p, nil
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// maxPatch bounds a patch, in bytes and in operations.
const (
	maxPatch    = 64 << 10
	maxPatchOps = 1000
)

// wrong says what is wrong with a fixer; nil is a plan without one.
func (f *Fixer) wrong() []api.FieldError {
	if f == nil {
		return nil
	}
	given := 0
	for _, is := range []bool{len(f.Patch) > 0, f.JQ != "", f.Name != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return []api.FieldError{{Pointer: "#/fixer", Detail: "give a patch, jq or the name of a fixer, and one of them"}}
	}
	if f.Name != "" {
		return nil // see pinned
	}
	if len(f.Patch) > 0 {
		_, wrong := parsePatch("#/fixer/patch", f.Patch)
		return wrong
	}
	if _, err := dlq.CompileJQ("#/fixer/jq", f.JQ, jqchild.Letter); err != nil {
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			return syntax.Fields()
		}
		return []api.FieldError{{Pointer: "#/fixer/jq", Detail: err.Error()}}
	}
	return nil
}
