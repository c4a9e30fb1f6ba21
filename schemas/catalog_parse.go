package schemas

// From the text of catalog.yaml to a Catalog.

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // catalog.schema.json
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxCatalog is the greatest size of a catalog's text, in bytes.
const MaxCatalog = 1 << 20

// catalogSchema is the JSON Schema of a catalog, for editors.
//
//go:embed catalog.schema.json
var catalogSchema []byte

// CatalogSchema returns the JSON Schema of catalog.yaml, for editors and other
// tools. It cannot see across fields: that a queue is declared, that a schema
// file is there. ParseCatalog does.
func CatalogSchema() []byte { return bytes.Clone(catalogSchema) }

// LoadCatalog reads and parses the catalog at path; schema files are found
// beside it.
func LoadCatalog(path string) (*Catalog, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		detail := "cannot be read: " + unwrapPath(err).Error()
		if errors.Is(err, fs.ErrNotExist) {
			detail = "is not there: write one, or name another with PERDURE_CATALOG"
		}
		return nil, CatalogErrors{{File: path, Detail: detail}}
	}
	return ParseCatalog(path, data, os.DirFS(filepath.Dir(path)))
}

// ParseCatalog parses a catalog. name stands in errors; files holds the schema
// files, by the paths that the catalog uses, and may be nil if it names none.
// An error is CatalogErrors, every mistake with its place.
func ParseCatalog(name string, data []byte, files fs.FS) (*Catalog, error) {
	s := &source{file: name, anchors: map[string]ast.Node{}}
	whole := func(detail string) (*Catalog, error) {
		s.fail(nil, "", detail)
		return nil, s.errs
	}
	switch {
	case len(data) > MaxCatalog:
		return whole(fmt.Sprintf("is larger than %d bytes", MaxCatalog))
	case !utf8.Valid(data):
		return whole("is not UTF-8")
	case bytes.IndexByte(data, 0) >= 0:
		return whole("holds a NUL byte")
	case tooNested(data):
		return whole("is nested too deeply")
	}
	s.lines = strings.Split(string(data), "\n")

	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			s.fail(syntax.GetToken(), "", "is not valid YAML: "+syntax.GetMessage())
			return nil, s.errs
		}
		return whole("is not valid YAML: " + err.Error())
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			s.fail(doc.Body.GetToken(), "", "has a second YAML document: want one")
			return nil, s.errs
		}
		body = doc.Body
	}
	if body == nil {
		return whole("is empty: want `version: 1`, queues and kinds")
	}
	ast.Walk(s, body)

	b := builder{source: s, schemas: newSchemaFiles(files)}
	b.catalog(s.resolve(body))
	if len(s.errs) > 0 {
		slices.SortStableFunc(s.errs, func(x, y *CatalogError) int {
			return (x.Line-y.Line)*10000 + x.Column - y.Column
		})
		return nil, s.errs
	}
	b.out.Hash = b.hash(data)
	return b.out, nil
}

// tooNested bounds what the YAML parser recurses into: flow brackets, and
// indentation by dashes or spaces.
func tooNested(data []byte) bool {
	open := 0
	for _, c := range data {
		switch c {
		case '[', '{':
			open++
		case ']', '}':
			open--
		}
		if open > 200 {
			return true
		}
	}
	for line := range bytes.Lines(data) {
		marks := 0
		for _, c := range line {
			if c == '-' || c == '?' {
				marks++
			} else if c != ' ' {
				break
			}
		}
		if marks > 50 || len(line)-len(bytes.TrimLeft(line, " ")) > 400 {
			return true
		}
	}
	return false
}

// builder makes a Catalog from a source.
type builder struct {
	*source
	schemas *schemaFiles
	out     *Catalog
}

func (b *builder) catalog(body ast.Node) {
	b.out = &Catalog{Queues: map[string]*Queue{}, Dependencies: map[string]*Dependency{}, Kinds: map[string]*Kind{}, Fixers: map[string]*Fixer{}, Policies: map[string]*Policy{}}
	if _, ok := body.(ast.MapNode); !ok {
		var at *token.Token
		if body != nil { // an alias of nothing is nil
			at = body.GetToken()
		}
		b.fail(at, "", "must be a mapping: version, queues, dependencies, kinds")
		return
	}
	o := b.object(body, nil, "", "version", "queues", "dependencies", "kinds", "replays", "fixers", "policies")
	if e, ok := o.fields["version"]; !ok {
		b.fail(nil, "version", "is missing: begin the catalog with `version: 1`")
	} else if n, ok := wholeNumber(e.value); !ok || n != 1 {
		o.wrong("version", "must be 1")
	}
	for _, e := range b.named(o, "queues", ValidQueue, queueRule) {
		b.queue(e)
	}
	for _, e := range b.named(o, "dependencies", ValidQueue, queueRule) {
		b.dependency(e)
	}
	for _, e := range b.named(o, "kinds", ValidKind, kindRule) {
		b.kind(e)
	}
	b.replays(o)
	for _, e := range b.named(o, "fixers", ValidQueue, queueRule) {
		b.fixer(e)
	}
	for _, e := range b.named(o, "policies", ValidQueue, queueRule) {
		b.policy(e)
	}
}

// named returns the entries of a mapping whose keys are names.
func (b *builder) named(o object, field string, valid func(string) bool, rule string) []entry {
	f, ok := o.fields[field]
	if !ok {
		return nil
	}
	list := b.entries(f.value, f.at(), field)
	for _, e := range list {
		if !valid(e.name) {
			b.fail(e.key, join(field, clip(e.name)), "is not a name: "+rule)
		}
	}
	return list
}

func (b *builder) queue(e entry) {
	o := b.object(e.value, e.at(), "queues."+e.name, "partitions", "replication", "weight", "retention", "dlq_retention", "delivery")
	b.out.Queues[e.name] = &Queue{
		Name:         e.name,
		Partitions:   o.number("partitions", DefaultPartitions, 1, 1000),
		Replication:  o.number("replication", 0, 1, 100),
		Weight:       o.number("weight", 1, 1, 1000),
		Retention:    o.duration("retention", DefaultRetention),
		DLQRetention: o.duration("dlq_retention", DefaultDLQRetention),
		Shared:       o.choice("delivery", "partitioned", "partitioned", "shared") == "shared",
	}
}

func (b *builder) dependency(e entry) {
	o := b.object(e.value, e.at(), "dependencies."+e.name, "rate", "concurrency")
	d := &Dependency{Name: e.name, Concurrency: o.number("concurrency", 0, 1, maxConcurrency)}
	b.out.Dependencies[e.name] = d
	f, ok := o.fields["rate"]
	if !ok {
		return
	}
	s, _ := textOf(f.value)
	rate, err := ParseRate(s)
	if err != nil {
		o.wrong("rate", err.Error())
	}
	d.Rate = rate
	if err == nil {
		b.out.Warnings = append(b.out.Warnings, b.at(f.key, o.path+".rate", "is enforced by nobody yet: bound the calls by concurrency, of the dependency or of its kinds"))
	}
}

// hash is over the text and every schema file read for it, in the order of names.
func (b *builder) hash(data []byte) string {
	h := sha256.New()
	part := func(p []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	part(data)
	for _, name := range keysOf(b.schemas.loader.read) {
		part([]byte(name))
		part(b.schemas.loader.read[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
