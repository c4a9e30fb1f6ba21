package kafka

// What is compressed, and that it comes back as it was.

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestOnlyWhatShrinksIsCompressed(t *testing.T) {
	c, err := kgo.DefaultCompressor(kgo.SnappyCompression())
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise) //nolint:errcheck // it never fails
	words := bytes.Repeat([]byte("the payment was disputed "), 1<<15)
	for _, x := range []struct {
		name string
		src  []byte
		want kgo.CompressionCodecType
	}{
		{"nothing", nil, kgo.CodecNone},
		{"a little noise", noise[:100], kgo.CodecNone},
		{"noise", noise, kgo.CodecNone},
		{"a few words", words[:1000], kgo.CodecSnappy},
		{"words", words, kgo.CodecSnappy},
		{"noise, words, noise", append(append(bytes.Clone(noise[:1<<18]), words[:1<<18]...), noise[:1<<18]...), kgo.CodecSnappy},
		{"words, noise, words", append(append(bytes.Clone(words[:1<<16]), noise[:1<<19]...), words[:1<<16]...), kgo.CodecNone},
	} {
		out, codec := thrifty{c}.Compress(&bytes.Buffer{}, x.src)
		if codec != x.want {
			t.Errorf("%s: codec %d, want %d", x.name, codec, x.want)
		}
		if codec == kgo.CodecNone && !bytes.Equal(out, x.src) {
			t.Errorf("%s: changed, and called uncompressed", x.name)
		}
		back, err := kgo.DefaultDecompressor().Decompress(out, codec)
		if err != nil || !bytes.Equal(back, x.src) {
			t.Errorf("%s: does not come back: %v", x.name, err)
		}
	}
}
