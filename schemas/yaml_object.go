package schemas

// YAML mappings with known fields, and the types of their values.

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// maxDuration bounds every duration of a catalog.
const maxDuration = 10 * 365 * 24 * time.Hour

// object is a mapping with a fixed set of fields.
type object struct {
	*source
	path   string
	at     *token.Token
	fields map[string]entry
}

// reserved are fields that a later version will understand.
var reserved = []string{"delivery", "upcast", "redact"}

func (s *source) object(n ast.Node, at *token.Token, path string, known ...string) object {
	o := object{s, path, at, map[string]entry{}}
	for _, e := range s.entries(n, at, path) {
		switch {
		case slices.Contains(known, e.name):
			o.fields[e.name] = e
		case slices.Contains(reserved, e.name):
			s.fail(e.key, join(path, e.name), "is reserved for a later version: remove it")
		default:
			names := slices.Sorted(slices.Values(known))
			s.fail(e.key, join(path, clip(e.name)), "is not a field of the catalog here"+didYouMean(e.name, names))
		}
	}
	return o
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (o object) wrong(name, detail string) {
	at := o.at
	if e, ok := o.fields[name]; ok {
		at = e.at()
	}
	o.fail(at, join(o.path, name), detail)
}

// wrongSecret is wrong without the excerpt: the line may hold a secret.
func (o object) wrongSecret(name, detail string) {
	o.wrong(name, detail)
	o.errs[len(o.errs)-1].Excerpt = ""
}

// text returns a string field, def where it is not written.
func (o object) text(name, def string) string {
	e, ok := o.fields[name]
	if !ok {
		return def
	}
	if s, ok := textOf(e.value); ok && s != "" {
		return s
	}
	o.wrong(name, "must be a text")
	return def
}

func textOf(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		if v.Value != nil {
			return v.Value.Value, true
		}
	}
	return "", false
}

// choice returns a field that must be one of a few words.
func (o object) choice(name, def string, allowed ...string) string {
	s := o.text(name, def)
	if slices.Contains(allowed, s) {
		return s
	}
	o.wrong(name, "must be "+orList(allowed)+didYouMean(s, slices.Sorted(slices.Values(allowed))))
	return def
}

// orList joins words as "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// number returns a whole number between low and high.
func (o object) number(name string, def, low, high int) int {
	e, ok := o.fields[name]
	if !ok {
		return def
	}
	n, ok := wholeNumber(e.value)
	if !ok || n < int64(low) || n > int64(high) {
		o.wrong(name, "must be a whole number from "+strconv.Itoa(low)+" to "+strconv.Itoa(high))
		return def
	}
	return int(n)
}

func wholeNumber(n ast.Node) (int64, bool) {
	switch v := n.(type) {
	case *ast.IntegerNode:
		switch i := v.Value.(type) {
		case int64:
			return i, true
		case uint64:
			return int64(i), i <= math.MaxInt64
		}
	case *ast.FloatNode:
		return int64(v.Value), v.Value == math.Trunc(v.Value) && math.Abs(v.Value) < 1<<53
	}
	return 0, false
}

// duration returns a duration above zero; def may be zero for "none".
func (o object) duration(name string, def time.Duration) time.Duration {
	e, ok := o.fields[name]
	if !ok {
		return def
	}
	s, ok := textOf(e.value)
	d, err := time.ParseDuration(s)
	switch {
	case !ok || err != nil || s[0] == '+' || s[0] == '-' || s == "0":
		o.wrong(name, "must be a duration such as 500ms, 10s or 168h")
	case d <= 0:
		o.wrong(name, "must be more than zero")
	case d > maxDuration:
		o.wrong(name, "must be at most 87600h (ten years)")
	default:
		return d
	}
	return def
}
