package replayer

// What a plan says of repairing payloads: the fixer, which its hash pins.

import (
	"encoding/json"
	"errors"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jqchild"
)

// Fixer repairs the payloads of a replay's letters, each on its way into the
// outbox. One of its programs must be given.
type Fixer struct {
	Patch json.RawMessage `json:"patch,omitempty" doc:"JSON Patch (RFC 6902) of the payload"`
	JQ    string          `json:"jq,omitempty" maxLength:"10000" doc:"jq over the payload: its one value is the payload from now on; no value leaves the letter as it is, not replayed. $letter is the letter, as where sees it"`
	// NoEffects is a person's decision; without it a payload is repaired only if no
	// run of the task can have had an effect.
	NoEffects string `json:"no_effects,omitempty" maxLength:"2000" doc:"why tasks may be repaired that have run before: a repaired one has another idempotency key, so that what its earlier runs did would be done again"`
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
	if (len(f.Patch) > 0) == (f.JQ != "") {
		return []api.FieldError{{Pointer: "#/fixer", Detail: "give a patch or jq, and one of them"}}
	}
	if len(f.Patch) > 0 {
		_, wrong := parsePatch("#/fixer/patch", f.Patch)
		return wrong
	}
	if _, err := compileJQ("#/fixer/jq", f.JQ, jqchild.Letter); err != nil {
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			return syntax.fields()
		}
		return []api.FieldError{{Pointer: "#/fixer/jq", Detail: err.Error()}}
	}
	return nil
}
