package replayer

// JSON Patch, checked whole before anything is planned: the library finds some
// of what is wrong only when it applies an operation.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// patchOp is an operation of RFC 6902.
type patchOp struct {
	Op    string           `json:"op"`
	Path  *string          `json:"path"`
	From  *string          `json:"from"`
	Value *json.RawMessage `json:"value"`
}

// parsePatch reads a patch, and says where it is wrong; pointer is where it stood.
func parsePatch(pointer string, b []byte) (jsonpatch.Patch, []api.FieldError) {
	one := func(at, format string, args ...any) []api.FieldError {
		return []api.FieldError{{Pointer: pointer + at, Detail: fmt.Sprintf(format, args...)}}
	}
	if len(b) > maxPatch {
		return nil, one("", "is larger than %d bytes", maxPatch)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, one("", "is not JSON: at byte %d: %s", syntax.Offset, syntax)
		}
		return nil, one("", "is not a JSON Patch: want an array of operations")
	}
	if len(raw) == 0 || len(raw) > maxPatchOps {
		return nil, one("", "has %d operations: want 1 to %d", len(raw), maxPatchOps)
	}
	var wrong []api.FieldError
	for i, b := range raw {
		at := "/" + strconv.Itoa(i)
		var op patchOp
		if err := json.Unmarshal(b, &op); err != nil {
			wrong = append(wrong, one(at, "is not an operation: want an object with op and path")...)
			continue
		}
		for name, p := range map[string]*string{"path": op.Path, "from": op.From} {
			if p != nil && !validPointer(*p) {
				wrong = append(wrong, one(at+"/"+name, "is not a JSON Pointer: want \"\" or /a/b, with ~0 for ~ and ~1 for /")...)
			}
		}
		switch {
		case op.Path == nil:
			wrong = append(wrong, one(at+"/path", "is missing")...)
		case op.Op == "move" || op.Op == "copy":
			if op.From == nil {
				wrong = append(wrong, one(at+"/from", "is missing, which %s needs", op.Op)...)
			}
		case op.Op == "add" || op.Op == "replace" || op.Op == "test":
			if op.Value == nil && !hasNullValue(b) {
				wrong = append(wrong, one(at+"/value", "is missing, which %s needs", op.Op)...)
			}
		case op.Op != "remove":
			wrong = append(wrong, one(at+"/op", "must be add, remove, replace, move, copy or test")...)
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	patch, err := jsonpatch.DecodePatch(b)
	if err != nil {
		return nil, one("", "is not a JSON Patch: %s", err)
	}
	return patch, nil
}

// hasNullValue: a null is no value to encoding/json, and one to a patch.
func hasNullValue(op []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(op, &fields) != nil {
		return false
	}
	_, ok := fields["value"]
	return ok
}

// validPointer reports whether s is a JSON Pointer (RFC 6901).
func validPointer(s string) bool {
	if s != "" && s[0] != '/' {
		return false
	}
	rest := strings.NewReplacer("~0", "", "~1", "").Replace(s)
	return !strings.Contains(rest, "~")
}

// applyPatch gives the patched payload. The error is a fixError or a fixLimit.
func applyPatch(patch jsonpatch.Patch, payload []byte) (fixed []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fixError("the patch does not apply: the library panicked")
		}
	}()
	payload = bytes.TrimSpace(payload)
	options := jsonpatch.NewApplyOptions()
	options.SupportNegativeIndices, options.EscapeHTML = false, false // as RFC 6902 has it
	options.AccumulatedCopySizeLimit = schemas.MaxPayload
	fixed, err = patch.ApplyWithOptions(payload, options)
	if err == nil {
		return fixed, nil
	}
	// Which operation it was is not told: the patch again, one more of it each time.
	for i := range patch {
		if _, err = patch[:i+1].ApplyWithOptions(payload, options); err != nil {
			var large *jsonpatch.AccumulatedCopySizeError
			if errors.As(err, &large) {
				return nil, fixLimit(fmt.Sprintf("operation %d copies more than %d bytes", i, schemas.MaxPayload))
			}
			path, _ := patch[i].Path()
			return nil, fixError(fmt.Sprintf("operation %d of the patch (%s %s) does not apply%s", i, patch[i].Kind(), path, whyNot(err)))
		}
	}
	return nil, fixError("the patch does not apply")
}

// whyNot is what of an error tells no value of the payload.
func whyNot(err error) string {
	for sentinel, why := range map[error]string{
		jsonpatch.ErrTestFailed: ": the test failed", jsonpatch.ErrMissing: ": nothing is there",
		jsonpatch.ErrInvalidIndex: ": the array has no such index", jsonpatch.ErrUnknownType: ": no object or array is there",
		jsonpatch.ErrExpectedObject: ": no object is there",
	} {
		if errors.Is(err, sentinel) {
			return why
		}
	}
	return ""
}
