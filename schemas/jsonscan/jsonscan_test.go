package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// agree compares with encoding/json.
func agree(t *testing.T, b []byte) {
	t.Helper()
	if got, want := Valid(b), json.Valid(b) && !Deeper(b, MaxDepth); got != want {
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

func TestValidIsWhatEncodingJSONSays(t *testing.T) {
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

// objects compares Members with encoding/json's tokens.
func objects(t *testing.T, b []byte) {
	t.Helper()
	got, ok := Members(nil, b)
	want, wellFormed := tokens(b)
	if !ok {
		if wellFormed && !slices.ContainsFunc(want, func(m Member) bool { return Deeper(m.Value, MaxDepth) }) {
			t.Fatalf("%q: no members, want %v", b, want)
		}
		return
	}
	if !wellFormed || !slices.EqualFunc(got, want, func(a, b Member) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
		t.Fatalf("%q: members %q, want %q (%v)", b, got, want, wellFormed)
	}
}

func tokens(b []byte) (members []Member, ok bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, false
		}
		members = append(members, Member{name.(string), value})
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	_, err := d.Token()
	return members, errors.Is(err, io.EOF)
}

func TestMembersAreThoseOfEncodingJSON(t *testing.T) {
	seeds := append([]string{
		`{"a":1,"b":[1,{"c":2}],"a":"x"}`, ` { "a" : 1 , "b" : { } } `, `{"a\u0062\n":"\ud83d\ude00"}`, `{"é":"\ud83d"}`, `{"":null}`, `{"a":1}x`, `{"a":1} {}`,
		`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`, `{"a":` + strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1) + `}`,
	}, jsonSeeds...)
	for _, s := range seeds {
		objects(t, []byte(s))
		if len(s) > 60 {
			continue
		}
		for i := range s {
			objects(t, []byte(s[:i]))
			for _, c := range "\"\\{}[],:0-e.\x00\x1f\x20\x7f\x80\xff" {
				b := []byte(s)
				b[i] = byte(c)
				objects(t, b)
			}
		}
	}
}

func FuzzMembers(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { objects(t, b) })
}

func FuzzValid(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

func BenchmarkValid(b *testing.B) {
	payload := []byte(`{"data":"` + strings.Repeat("mDk3Jx0z", 126) + `"}`)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if !Valid(payload) {
				b.Fatal()
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		for b.Loop() {
			if Deeper(payload, MaxDepth) || !json.Valid(payload) {
				b.Fatal()
			}
		}
	})
}

func BenchmarkMembers(b *testing.B) {
	line := []byte(`{"kind":"k","payload":{"data":"` + strings.Repeat("mDk3Jx0z", 126) + `"}}`)
	var room [8]Member
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			if _, ok := Members(room[:0], line); !ok {
				b.Fatal()
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		for b.Loop() {
			if _, ok := tokens(line); !ok {
				b.Fatal()
			}
		}
	})
}
