package schemas_test

import (
	"testing"
	"testing/fstest"

	"github.com/perdure/perdure/schemas"
)

func TestKindIsCompiledAgainFromItsFiles(t *testing.T) {
	files := fstest.MapFS{
		"s/order.json": {Data: []byte(`{"type": "object", "properties": {"amount": {"$ref": "money.json"}}}`)},
		"s/money.json": {Data: []byte(`{"type": "integer", "minimum": 1}`)},
		"s/other.json": {Data: []byte(`true`)},
	}
	c, err := schemas.ParseCatalog("c.yaml", []byte("version: 1\nqueues: {q: {}}\nkinds:\n  other: {queue: q, schema: s/other.json}\n  order: {queue: q, schema: s/order.json}\n"), files)
	if err != nil {
		t.Fatal(err)
	}
	was := c.Kind("order")
	if len(was.SchemaFiles) != 2 {
		t.Fatalf("order needs 2 files, has %d", len(was.SchemaFiles))
	}
	var again schemas.Kind
	if err := again.CompileSchema(was.SchemaFile, was.SchemaFiles); err != nil {
		t.Fatal(err)
	}
	errs := again.ValidatePayload([]byte(`{"amount": 0}`), "")
	if len(errs) != 1 || errs[0].Pointer != "#/payload/amount" {
		t.Fatalf("got %v", errs)
	}
	if err := again.CompileSchema("s/order.json", map[string][]byte{"s/order.json": files["s/order.json"].Data}); err == nil {
		t.Fatal("a schema without the file it refers to was compiled")
	}
}
