package schemas_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/perdure/perdure/schemas"
)

func parseCatalog(text string) (*schemas.Catalog, error) {
	return schemas.ParseCatalog("catalog.yaml", []byte(text), os.DirFS("testdata"))
}

func TestCatalogConcurrency(t *testing.T) {
	c, err := parseCatalog(goodCatalogs["concurrency"])
	if err != nil {
		t.Fatal(err)
	}
	if d, k := c.Dependencies["d"], c.Kind("k"); d.Concurrency != 3 || k.Concurrency != 2 {
		t.Errorf("dependency %+v, kind %+v", d, k)
	}
}

func TestCatalogIsReadWhole(t *testing.T) {
	c, err := parseCatalog(goodCatalogs["as in the reference"])
	if err != nil {
		t.Fatal(err)
	}
	if q := c.Queues["payments"]; *q != (schemas.Queue{Name: "payments", Partitions: 16, Replication: 3, Weight: 4, Retention: 168 * time.Hour, DLQRetention: 720 * time.Hour}) {
		t.Errorf("queue: %+v", q)
	}
	if d := c.Dependencies["bank-api"]; d.Name != "bank-api" || d.Rate != 200 {
		t.Errorf("dependency: %+v", d)
	}
	k := c.Kind("refund.issue")
	if k.Name != "refund.issue" || k.Queue != "payments" || k.SchemaFile != "schemas/refund.json" || k.SchemaURI != "https://example.com/refund.json" ||
		k.Timeout != 10*time.Second || k.ExpiresAfter != 24*time.Hour || k.StartWithin != time.Minute || !k.Ordered || k.BlockOnDead || k.Effects != schemas.EffectsFenced || k.Dependency != "bank-api" {
		t.Errorf("kind: %+v", k)
	}
	if k.Retry != (schemas.Retry{MaxAttempts: 8, InitialDelay: 500 * time.Millisecond, MaxDelay: 10 * time.Minute}) {
		t.Errorf("retry: %+v", k.Retry)
	}
	if k.HTTP.URL != "http://refunds.internal/run" || k.HTTP.SecretEnv != "REFUNDS_SECRET" {
		t.Errorf("executor: %+v", k.HTTP)
	}
	file, err := os.ReadFile("testdata/schemas/refund.json")
	if err != nil || !bytes.Equal(k.Schema, file) {
		t.Errorf("schema: %s, %v", k.Schema, err)
	}
	if c.Kind("none") != nil {
		t.Error("a kind that is not there was found")
	}
}

func TestCatalogFillsInDefaults(t *testing.T) {
	c, err := parseCatalog(kindWith("executor: {http: {url: http://x/}}", "responses: {404: retry, 201: completed}"))
	if err != nil {
		t.Fatal(err)
	}
	if q := c.Queues["q"]; *q != (schemas.Queue{Name: "q", Partitions: schemas.DefaultPartitions, Weight: 1, Retention: schemas.DefaultRetention, DLQRetention: schemas.DefaultDLQRetention}) {
		t.Errorf("queue: %+v", q)
	}
	k := c.Kind("k")
	if k.Timeout != schemas.DefaultTimeout || k.ExpiresAfter != 0 || k.StartWithin != 0 || k.Ordered || k.BlockOnDead || k.Effects != schemas.EffectsIdempotent || k.Schema != nil ||
		k.Retry != (schemas.Retry{MaxAttempts: schemas.DefaultMaxAttempts, InitialDelay: schemas.DefaultInitialDelay, MaxDelay: schemas.DefaultMaxDelay}) {
		t.Errorf("kind: %+v", k)
	}
	if !reflect.DeepEqual(k.HTTP.Responses, map[int]string{404: "retry", 201: "completed"}) {
		t.Errorf("responses: %v", k.HTTP.Responses)
	}
	c, err = parseCatalog(goodCatalogs["max_delay below default"])
	if err != nil || c.Kind("k").Retry.InitialDelay != 100*time.Millisecond {
		t.Errorf("the default of initial_delay does not give way: %+v, %v", c.Kind("k").Retry, err)
	}
	c, err = parseCatalog(goodCatalogs["rates"])
	if err == nil && (len(c.Warnings) != 3 || c.Warnings[1].Path != "dependencies.b.rate" || c.Warnings[1].Line != 2 || !strings.Contains(c.Warnings[1].Detail, "nobody")) {
		t.Errorf("warnings %v", c.Warnings)
	}
	if err != nil || c.Dependencies["a"].Rate != 0.5 || c.Dependencies["b"].Rate != 1.5 || c.Dependencies["c"].Rate != 10.0/3600 {
		t.Errorf("rates: %v", err)
	}
	c, err = parseCatalog(goodCatalogs["queue that is a number"])
	if err == nil && len(c.Warnings) != 0 {
		t.Errorf("warnings %v", c.Warnings)
	}
	if err != nil || !slices.Equal(c.QueueNames(), []string{"12"}) || !slices.Equal(c.KindNames(), []string{"3"}) {
		t.Errorf("names that are numbers: %v", err)
	}
}

// asJSON reads YAML as the schema's reader would: keys are texts, numbers are numbers.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestParserAndJSONSchemaAgree(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemas.CatalogSchema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("catalog.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("catalog.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range goodCatalogs {
		if _, err := parseCatalog(text); err != nil {
			t.Errorf("%s: the parser refuses: %v", name, err)
		}
		if err := schema.Validate(asJSON(t, text)); err != nil {
			t.Errorf("%s: the schema refuses: %v", name, err)
		}
	}
	for name, text := range badCatalogs {
		if _, err := parseCatalog(text); err == nil {
			t.Errorf("%s: the parser accepts", name)
		}
		if schema.Validate(asJSON(t, text)) == nil {
			t.Errorf("%s: the schema accepts", name)
		}
	}
	for name, text := range unseenCatalogs {
		if _, err := parseCatalog(text); err == nil {
			t.Errorf("%s: the parser accepts", name)
		}
	}
}

func TestCatalogErrorsGolden(t *testing.T) {
	for file, corpus := range map[string]map[string]string{"catalog_bad": badCatalogs, "catalog_unseen": unseenCatalogs} {
		var b bytes.Buffer
		for _, name := range slices.Sorted(maps.Keys(corpus)) {
			_, err := parseCatalog(corpus[name])
			var one *schemas.CatalogError
			if !errors.As(err, &one) {
				t.Errorf("%s: error is %T", name, err)
				continue
			}
			fmt.Fprintf(&b, "=== %s\n%s\n", name, err)
		}
		golden(t, file, b.Bytes())
	}
}

func TestCatalogSaysAllMistakesAtOnceInOrder(t *testing.T) {
	_, err := parseCatalog(`version: 1
kinds:
  refund:
    queue: pay
    timout: 10s
    effects: fence
queues:
  bad_name: {partitions: 0}
`)
	var all schemas.CatalogErrors
	if !errors.As(err, &all) {
		t.Fatalf("error is %T", err)
	}
	var places []string
	for _, e := range all {
		if e.File != "catalog.yaml" || e.Excerpt == "" || e.Detail == "" {
			t.Errorf("incomplete: %+v", e)
		}
		places = append(places, fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Path))
	}
	want := []string{"4:12 kinds.refund.queue", "5:5 kinds.refund.timout", "6:14 kinds.refund.effects", "8:3 queues.bad_name", "8:26 queues.bad_name.partitions"}
	if !slices.Equal(places, want) {
		t.Errorf("places are\n%s\nwant\n%s", strings.Join(places, "\n"), strings.Join(want, "\n"))
	}
}

func TestCatalogHashFollowsTextAndSchemas(t *testing.T) {
	files := fstest.MapFS{"a.json": {Data: []byte(`{"$ref": "b.json"}`)}, "b.json": {Data: []byte(`true`)}, "c.json": {Data: []byte(`true`)}}
	hash := func(text string) string {
		t.Helper()
		c, err := schemas.ParseCatalog("x", []byte(text), files)
		if err != nil {
			t.Fatal(err)
		}
		return c.Hash
	}
	text := kindWith("schema: a.json")
	first := hash(text)
	if len(first) != 16 || hash(text) != first {
		t.Fatalf("hash %q is not 16 digits, or changes by itself", first)
	}
	if hash(text+"# more\n") == first {
		t.Error("another text, the same hash")
	}
	files["c.json"].Data = []byte(`false`)
	if hash(text) != first {
		t.Error("a file that is not named changed the hash")
	}
	files["b.json"].Data = []byte(`{"type": "object"}`)
	if hash(text) == first {
		t.Error("a schema that is referred to changed, the hash did not")
	}
}

func TestSchemaMayReferToItsNeighbours(t *testing.T) {
	c, err := parseCatalog(kindWith("schema: schemas/refers.json"))
	if err != nil {
		t.Fatal(err)
	}
	if errs := c.Kind("k").ValidatePayload([]byte(`{"refund": 1}`), ""); len(errs) != 1 || errs[0].Pointer != "#/payload/refund" {
		t.Errorf("%v", errs)
	}
}

func TestCatalogWithoutFilesNamesTheSchema(t *testing.T) {
	_, err := schemas.ParseCatalog("x", []byte(kindWith("schema: a.json")), nil)
	if err == nil || !strings.Contains(err.Error(), "a.json") {
		t.Errorf("error is %v", err)
	}
}

func TestLoadCatalog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalog.yaml")
	if _, err := schemas.LoadCatalog(path); err == nil || !strings.Contains(err.Error(), "PERDURE_CATALOG") {
		t.Errorf("no such file: %v", err)
	}
	if _, err := schemas.LoadCatalog(dir); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a folder: %v", err)
	}
	for name, text := range map[string]string{"catalog.yaml": kindWith("schema: s.json"), "s.json": `{"type":"object"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := schemas.LoadCatalog(path)
	if err != nil || c.Kind("k").Schema == nil {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("#"), schemas.MaxCatalog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := schemas.LoadCatalog(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestForbiddenAddr(t *testing.T) {
	for s, want := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "fe80::1%eth0": true, "::ffff:169.254.169.254": true, "::a9fe:a9fe": true, "64:ff9b::a9fe:a9fe": true,
		"fd00:ec2::254": true, "::ffff:100.100.100.200": true, "100.100.100.200": true, "168.63.129.16": true, "0.0.0.0": true, "::": true, "224.0.0.1": true, "ff02::1": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "192.168.0.1": false, "8.8.8.8": false, "2001:db8::1": false, "fd00::1": false, "64:ff9b::808:808": false,
	} {
		if got := schemas.ForbiddenAddr(netip.MustParseAddr(s)); got != want {
			t.Errorf("ForbiddenAddr(%s) = %t", s, got)
		}
	}
}

func FuzzParseCatalog(f *testing.F) {
	for _, corpus := range []map[string]string{goodCatalogs, badCatalogs, unseenCatalogs} {
		for _, name := range slices.Sorted(maps.Keys(corpus)) {
			f.Add([]byte(corpus[name]))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		defer time.AfterFunc(10*time.Second, func() { panic(fmt.Sprintf("still parsing %q", data)) }).Stop()
		c, err := schemas.ParseCatalog("catalog.yaml", data, nil)
		if err == nil {
			for _, k := range c.Kinds {
				if c.Queues[k.Queue] == nil || k.Timeout <= 0 || k.Retry.MaxAttempts < 1 || k.Retry.MaxDelay < k.Retry.InitialDelay {
					t.Fatalf("accepted: %+v", k)
				}
			}
			return
		}
		var all schemas.CatalogErrors
		if c != nil || !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("catalog %v, error %#v", c, err)
		}
		for _, e := range all {
			if e.Detail == "" || e.Line < 0 || e.Line > 0 && e.Column < 1 {
				t.Fatalf("error %+v", e)
			}
		}
	})
}
