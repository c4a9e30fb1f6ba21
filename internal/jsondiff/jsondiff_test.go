package jsondiff

import (
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	for name, c := range map[string]struct{ before, after, want string }{
		"names in another order": {`{"a":1,"b":2}`, ` {"b": 2, "a": 1} `, ""},
		"a value":                {`{"a":1,"b":{"amount":"7"}}`, `{"b":{"amount":7},"a":1}`, "--- before\n+++ after\n@@ -1,6 +1,6 @@\n {\n   \"a\": 1,\n   \"b\": {\n-    \"amount\": \"7\"\n+    \"amount\": 7\n   }\n }\n"},
		"a number's digits":      {`12345678901234567890.10`, `12345678901234567890.1`, "-12345678901234567890.10\n+12345678901234567890.1\n"},
		"controls are escaped":   {`"\u001b[31m<b>"`, `1`, `-"\u001b[31m<b>"`},
		"text":                   {"a\nb", "a\nc", " a\n-b\n+c\n"},
		"not text":               {"\xff\x00", `1`, "-00000000  ff 00"},
		"too large":              {strings.Repeat("x", 300<<10), "1", "307200 bytes became 1 bytes"},
		"long":                   {`[` + strings.Repeat("1,", 1000) + `1]`, `2`, "more lines\n"},
		"wide":                   {`"` + strings.Repeat("x", 10_000) + `"`, `2`, "…\n+2\n"},
	} {
		got := Lines([]byte(c.before), []byte(c.after))
		if c.want == "" && got != "" || !strings.Contains(got, c.want) || len(got) > maxLines*(maxLine+10) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}
