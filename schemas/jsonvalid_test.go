package schemas

import (
	"encoding/json"
	"strings"
	"testing"
)

// agree compares with encoding/json.
func agree(t *testing.T, b []byte) {
	t.Helper()
	if got, want := validJSON(b), json.Valid(b) && !deeper(b, MaxDepth); got != want {
		t.Fatalf("%q: valid %v, encoding/json and the depth say %v", b, got, want)
	}
}

var jsonSeeds = []string{
	``, ` `, `{}`, `[]`, `""`, `0`, `-0`, `-`, `01`, `1.`, `.5`, `1e`, `1e+5`, `1E-5`, `-1.5e10`, `1 2`, `true`, `tru`, `nulll`, `falsey`,
	`{"a":1}`, `{"a":1,}`, `{,}`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":{"b":[1,2,{"c":null}]}}`,
	`"\u00e9"`, `"\u00g9"`, `"\x"`, `"\`, `"abc`, "\"a\x00b\"", "\"a\x1fbbbbbbbbbbbbb\"", "\"a\x20bbbbbbbbbbbbb\"", "\"\x7f\x80\xff\xfe\"", "\"0123456\x1f\"", "\"01234567\x1f\"",
	`"12345678"`, `"1234567"`, `"123456789"`, `"1234567\"9"`, `"12345678\"9"`, `"1234567\\"`, ` {"a" : [ 1 , 2 ] } ` + "\n", `]`, `}`, `[}`, `{]`, `"a":1`, "\ufeff{}",
	`{"data":"` + strings.Repeat("x", 1000) + `"}`, `{"data":"` + strings.Repeat(`\"`, 100) + `"}`,
	strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1),
	strings.Repeat(`{"a":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth), strings.Repeat("[", 10000),
}

func TestValidJSONIsWhatEncodingJSONSays(t *testing.T) {
	for _, s := range jsonSeeds {
		agree(t, []byte(s))
		// Every byte of it replaced by every byte that means something, and cut everywhere.
		if len(s) > 60 {
			continue
		}
		for i := range s {
			agree(t, []byte(s[:i]))
			for _, c := range "\"\\{}[],:0-e.\x00\x1f\x20\x7f\x80\xff" {
				b := []byte(s)
				b[i] = byte(c)
				agree(t, b)
			}
		}
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

func BenchmarkValidJSON(b *testing.B) {
	payload := []byte(`{"data":"` + strings.Repeat("mDk3Jx0z", 126) + `"}`)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if !validJSON(payload) {
				b.Fatal()
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		for b.Loop() {
			if deeper(payload, MaxDepth) || !json.Valid(payload) {
				b.Fatal()
			}
		}
	})
}
