package schemas

// Walking YAML by hand: each value keeps its place, unknown keys are refused,
// and one mistake does not hide the next.

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

// source is a YAML text while it is read, with what was found wrong in it.
type source struct {
	file    string
	lines   []string
	anchors map[string]ast.Node
	errs    CatalogErrors
}

// fail notes a mistake at a token; a nil token names no line.
func (s *source) fail(at *token.Token, path, detail string) {
	e := &CatalogError{File: s.file, Path: path, Detail: detail}
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
		e.Excerpt = excerpt(s.lines, e.Line, e.Column)
	}
	s.errs = append(s.errs, e)
}

// Visit implements ast.Visitor: it collects anchors.
func (s *source) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		s.anchors[a.Name.GetToken().Value] = a.Value
	}
	return s
}

// resolve follows anchors and aliases to the value itself; nil for an alias to
// nothing, or to itself.
func (s *source) resolve(n ast.Node) ast.Node {
	for range 8 {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			if v.Value == nil {
				return nil
			}
			n = s.anchors[v.Value.GetToken().Value]
		default:
			return n
		}
	}
	return nil
}

// entry is one key of a mapping with its value.
type entry struct {
	name  string
	key   *token.Token
	value ast.Node // resolved; nil and *ast.NullNode are "nothing written"
}

// at is the place to point at for a wrong value.
func (e entry) at() *token.Token {
	if e.value == nil {
		return e.key
	}
	switch e.value.(type) {
	case *ast.NullNode, *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		return e.key
	}
	if t := e.value.GetToken(); t != nil {
		return t
	}
	return e.key
}

func (e entry) empty() bool {
	_, null := e.value.(*ast.NullNode)
	return e.value == nil || null
}

// entries returns the keys of a mapping in the order written, each once.
func (s *source) entries(n ast.Node, at *token.Token, path string) []entry {
	if n == nil {
		return nil
	}
	if _, null := n.(*ast.NullNode); null {
		return nil
	}
	m, ok := n.(ast.MapNode)
	if !ok {
		s.fail(at, path, "must be a mapping of names to values")
		return nil
	}
	var list []entry
	seen := map[string]bool{}
	for i := m.MapRange(); i.Next(); {
		key := i.Key()
		tk := key.GetToken()
		switch key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.LiteralNode:
		case *ast.MergeKeyNode:
			s.fail(tk, path, "merge keys (<<) are not supported: write the fields out")
			continue
		default:
			s.fail(tk, path, "must have plain words as keys")
			continue
		}
		name := tk.Value
		if seen[name] {
			s.fail(tk, join(path, name), "is declared twice")
			continue
		}
		seen[name] = true
		value := s.resolve(i.Value())
		if value == nil && i.Value() != nil {
			s.fail(i.Value().GetToken(), join(path, clip(name)), "is an alias of nothing: no anchor has that name")
			continue
		}
		list = append(list, entry{name, tk, value})
	}
	return list
}

// object is a mapping with a fixed set of fields.
type object struct {
	*source
	path   string
	at     *token.Token
	fields map[string]entry
}

// reserved are fields that a later version will understand.
var reserved = []string{"policies", "schedule", "unique", "delivery", "upcast", "redact"}

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
