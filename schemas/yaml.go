package schemas

// Walking YAML by hand: each value keeps its place, unknown keys are refused,
// and one mistake does not hide the next.

import (
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// source is a YAML text while it is read, with what was found wrong in it.
type source struct {
	file    string
	lines   []string
	anchors map[string]ast.Node
	errs    CatalogErrors
}

// fail notes a mistake at a token; a nil token names no line.
func (s *source) fail(at *token.Token, path, detail string) {
	s.errs = append(s.errs, s.at(at, path, detail))
}

// at says something of a place.
func (s *source) at(at *token.Token, path, detail string) *CatalogError {
	e := &CatalogError{File: s.file, Path: path, Detail: detail}
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
		e.Excerpt = excerpt(s.lines, e.Line, e.Column)
	}
	return e
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
