package schemas

// What a kind's JSON Schema says about a payload, by place and rule, never by value.

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// maxPayloadErrors bounds the answer to a payload that is wrong everywhere.
const maxPayloadErrors = 20

// check returns what the schema has against a payload that is known to be JSON.
func (v *validator) check(payload []byte) []FieldError {
	if hugeNumber(payload) {
		return []FieldError{{"#/payload", "holds a number that is out of range"}}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return []FieldError{{"#/payload", "is not valid JSON"}}
	}
	err = v.schema.Validate(doc)
	if err == nil {
		return nil
	}
	var violation *jsonschema.ValidationError
	if !errors.As(err, &violation) {
		return []FieldError{{"#/payload", "does not match its schema"}}
	}
	var errs []FieldError
	leaves(violation, func(e *jsonschema.ValidationError) { errs = append(errs, fieldErrors(e)...) })
	slices.SortFunc(errs, func(a, b FieldError) int {
		return cmp.Or(strings.Compare(a.Pointer, b.Pointer), strings.Compare(a.Detail, b.Detail))
	})
	if len(errs) > maxPayloadErrors {
		n := len(errs) - maxPayloadErrors
		errs = append(errs[:maxPayloadErrors], FieldError{"#/payload", fmt.Sprintf("and %d more", n)})
	}
	return errs
}

// leaves visits the violations that say what is wrong. Alternatives (anyOf,
// oneOf) are told as one: the reasons of each would contradict one another; a
// property's name has no place of its own.
func leaves(e *jsonschema.ValidationError, visit func(*jsonschema.ValidationError)) {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf, *kind.Not, *kind.Contains, *kind.PropertyNames:
		visit(e)
		return
	}
	if len(e.Causes) == 0 {
		visit(e)
		return
	}
	for _, cause := range e.Causes {
		leaves(cause, visit)
	}
}

// fieldErrors words a violation without the value that caused it.
func fieldErrors(e *jsonschema.ValidationError) []FieldError {
	at := func(more ...string) string {
		var b strings.Builder
		b.WriteString("#/payload")
		for _, part := range append(append([]string{}, e.InstanceLocation...), more...) {
			b.WriteByte('/')
			b.WriteString(escapePointer(clip(part)))
		}
		return b.String()
	}
	one := func(format string, args ...any) []FieldError {
		return []FieldError{{at(), fmt.Sprintf(format, args...)}}
	}
	each := func(names []string, detail string) []FieldError {
		errs := make([]FieldError, 0, len(names))
		for _, name := range names {
			errs = append(errs, FieldError{at(name), detail})
		}
		return errs
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return each(k.Missing, "is required")
	case *kind.AdditionalProperties:
		return each(k.Properties, "is not allowed")
	case *kind.Dependency:
		return each(k.Missing, "is required beside "+strconv.Quote(k.Prop))
	case *kind.DependentRequired:
		return each(k.Missing, "is required beside "+strconv.Quote(k.Prop))
	case *kind.PropertyNames:
		// The library's location is not its own: later steps overwrite it (v6.0.3,
		// validator.go, `verr.InstanceLocation = vd.vloc`). So no place is told.
		return []FieldError{{"#/payload", "has a property " + strconv.Quote(clip(k.Property)) + " whose name is not allowed"}}
	case *kind.Type:
		return one("must be %s, not %s", strings.Join(k.Want, " or "), k.Got)
	case *kind.Enum:
		return one("must be one of %s", allowed(k.Want))
	case *kind.Const:
		return one("must be %s", allowed([]any{k.Want}))
	case *kind.Format:
		return one("is not a valid %s", k.Want)
	case *kind.Pattern:
		return one("must match the pattern %s", k.Want)
	case *kind.Minimum:
		return one("must be at least %s", k.Want.RatString())
	case *kind.Maximum:
		return one("must be at most %s", k.Want.RatString())
	case *kind.ExclusiveMinimum:
		return one("must be more than %s", k.Want.RatString())
	case *kind.ExclusiveMaximum:
		return one("must be less than %s", k.Want.RatString())
	case *kind.MultipleOf:
		return one("must be a multiple of %s", k.Want.RatString())
	case *kind.MinLength:
		return one("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return one("must have at most %d characters", k.Want)
	case *kind.MinItems:
		return one("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return one("must have at most %d items", k.Want)
	case *kind.MinProperties:
		return one("must have at least %d properties", k.Want)
	case *kind.MaxProperties:
		return one("must have at most %d properties", k.Want)
	case *kind.UniqueItems:
		return one("items %d and %d are equal", k.Duplicates[0], k.Duplicates[1])
	case *kind.AnyOf, *kind.OneOf:
		return one("matches none, or more than the one, of the forms that the schema allows")
	case *kind.Contains:
		return one("has no item of the form that the schema asks for")
	case *kind.Not:
		return one("has a form that the schema forbids")
	case *kind.FalseSchema:
		return one("is not allowed")
	}
	return one("does not match the schema (%s)", strings.Join(e.ErrorKind.KeywordPath(), "/"))
}

// allowed lists the schema's own constants; a long list is cut.
func allowed(want []any) string {
	const most = 12
	var b strings.Builder
	for i, w := range want {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == most {
			b.WriteString("…")
			break
		}
		switch w := w.(type) {
		case string:
			b.WriteString(strconv.Quote(w))
		case map[string]any, []any:
			b.WriteString("a constant of the schema")
		default:
			fmt.Fprint(&b, w)
		}
	}
	return b.String()
}

// escapePointer writes a name as a token of a JSON pointer (RFC 6901).
func escapePointer(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}
