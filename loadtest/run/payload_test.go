package run

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"testing"
)

func TestPayloads(t *testing.T) {
	for _, entropy := range []string{Random, Text} {
		for _, size := range []int{minPayload, 100, 1024, 1 << 20} {
			p := NewPayloads(size, entropy)
			for _, n := range []int{0, 7, 123_456_789, 9_999_999_999} {
				b := p.Append(nil, n)
				if got, err := number(b); err != nil || got != n || len(b) != size || !json.Valid(b) {
					t.Fatalf("%s, %d bytes, task %d: number %d, %v; %d bytes, valid %v", entropy, size, n, got, err, len(b), json.Valid(b))
				}
			}
		}
	}
}

// TestEntropy: a batch of random payloads compresses by a quarter, not because
// they resemble each other; text by a lot.
func TestEntropy(t *testing.T) {
	ratio := func(entropy string) float64 {
		p := NewPayloads(1024, entropy)
		var raw []byte
		for n := range 500 {
			raw = p.Append(raw, n)
		}
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, flate.DefaultCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return float64(b.Len()) / float64(len(raw))
	}
	if r := ratio(Random); r < 0.70 {
		t.Errorf("random compresses to %.2f, want about 0.75", r)
	}
	if r := ratio(Text); r > 0.1 {
		t.Errorf("text compresses to %.2f, want under 0.1", r)
	}
}
