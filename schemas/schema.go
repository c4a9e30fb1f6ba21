package schemas

// A kind's JSON Schema: read from beside the catalog, compiled once.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// validator is a compiled schema; safe for concurrent use.
type validator struct{ schema *jsonschema.Schema }

// schemaRoot stands before the paths of schema files; nothing is ever loaded
// from the machine or the network, only from the catalog's own file system.
const schemaRoot = "file:///"

// schemaLoader reads schema files, and what they $ref, from beside the catalog.
type schemaLoader struct {
	files fs.FS
	read  map[string][]byte // every file read, for the catalog's hash
	used  map[string][]byte // files of the schema that is being compiled
}

// Load implements jsonschema.URLLoader.
func (l *schemaLoader) Load(ref string) (any, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "file" || u.Host != "" {
		return nil, errors.New("a schema may only refer to files beside the catalog, by relative path")
	}
	b, err := l.readFile(strings.TrimPrefix(u.Path, "/"))
	if err != nil {
		return nil, err
	}
	if detail := scanJSON(b); detail != "" {
		return nil, errors.New(detail)
	}
	if hugeNumber(b) {
		return nil, errors.New("holds a number that is out of range")
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(b))
}

func (l *schemaLoader) readFile(name string) ([]byte, error) {
	if b, ok := l.read[name]; ok {
		l.used[name] = b
		return b, nil
	}
	if l.files == nil {
		return nil, fs.ErrNotExist
	}
	b, err := fs.ReadFile(l.files, name)
	if err != nil {
		return nil, err
	}
	l.read[name], l.used[name] = b, b
	return b, nil
}

// compile returns the schema of a file, and the file's text. `format` is
// asserted: who writes format: uuid means it.
func (l *schemaLoader) compile(file string) (*validator, []byte, error) {
	file = path.Clean(file)
	if !fs.ValidPath(file) {
		return nil, nil, errors.New("must be a path below the catalog's folder, with forward slashes")
	}
	l.used = map[string][]byte{}
	c := jsonschema.NewCompiler()
	c.UseLoader(l)
	c.AssertFormat()
	schema, err := c.Compile(schemaRoot + (&url.URL{Path: file}).EscapedPath())
	if err != nil {
		return nil, nil, schemaProblem(file, err)
	}
	return &validator{schema}, l.read[file], nil
}

// schemaProblem shortens the library's errors to what the reader can act on.
func schemaProblem(file string, err error) error {
	var load *jsonschema.LoadURLError
	if errors.As(err, &load) {
		file = strings.TrimPrefix(load.URL, schemaRoot)
		var unread *fs.PathError
		if errors.As(load.Err, &unread) || errors.Is(load.Err, fs.ErrNotExist) {
			return fmt.Errorf("%s cannot be read: %w", file, unwrapPath(load.Err))
		}
		return fmt.Errorf("%s: %w", file, load.Err)
	}
	var bad *jsonschema.SchemaValidationError
	if errors.As(err, &bad) {
		sortCauses(bad.Err)
	}
	return fmt.Errorf("%s is not a valid JSON Schema: %s", file, strings.NewReplacer("\n", " ", schemaRoot, "").Replace(err.Error()))
}

// sortCauses gives an error of the library one order: it looks at a schema's
// keywords in the order of a map.
func sortCauses(err error) {
	var v *jsonschema.ValidationError
	if !errors.As(err, &v) {
		return
	}
	for _, c := range v.Causes {
		sortCauses(c)
	}
	slices.SortFunc(v.Causes, func(a, b *jsonschema.ValidationError) int { return strings.Compare(a.Error(), b.Error()) })
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// schemaFiles compiles each schema file once, however many kinds name it.
type schemaFiles struct {
	loader *schemaLoader
	done   map[string]schemaFile
}

type schemaFile struct {
	validator *validator
	text      json.RawMessage
	files     map[string][]byte
	uri       string // $id, where it is an absolute URI that can stand in a header
	err       error
}

func newSchemaFiles(files fs.FS) *schemaFiles {
	return &schemaFiles{&schemaLoader{files: files, read: map[string][]byte{}}, map[string]schemaFile{}}
}

func (s *schemaFiles) get(name string) schemaFile {
	if f, ok := s.done[name]; ok {
		return f
	}
	var f schemaFile
	f.validator, f.text, f.err = s.loader.compile(name)
	f.files = s.loader.used
	if f.err == nil {
		var head struct {
			ID string `json:"$id"`
		}
		// A schema may be `true`: then there is no $id to find.
		if json.Unmarshal(f.text, &head) == nil {
			if u, err := url.Parse(head.ID); err == nil && u.IsAbs() && len(head.ID) <= maxAttribute {
				f.uri = head.ID
			}
		}
	}
	s.done[name] = f
	return f
}
