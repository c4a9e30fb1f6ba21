package kafka

// Compressing what shrinks. Payloads that are encrypted, compressed or random do
// not: compressing them costs us, and every reader after us (the broker checks
// each record of a batch, so it unpacks them too), and saves next to nothing.

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	sampleBytes = 16 << 10
	worthwhile  = 0.8 // compressed to less than this part
)

// thrifty compresses a batch if a piece of its middle shrinks.
type thrifty struct{ with kgo.Compressor }

// CompressWhatShrinks makes a producer compress a batch with snappy if that saves
// a fifth of it, judged by a sample.
func CompressWhatShrinks() kgo.ProducerOpt {
	c, err := kgo.DefaultCompressor(kgo.SnappyCompression())
	if err != nil { // snappy is a codec
		panic(err)
	}
	return kgo.WithCompressor(thrifty{c})
}

// Compress implements kgo.Compressor.
func (t thrifty) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if n := len(src); n > 4*sampleBytes {
		sample := src[n/2 : n/2+sampleBytes]
		if out, _ := t.with.Compress(dst, sample, flags...); !pays(out, sample) {
			return src, kgo.CodecNone
		}
		dst.Reset()
	}
	out, codec := t.with.Compress(dst, src, flags...)
	if !pays(out, src) {
		return src, kgo.CodecNone
	}
	return out, codec
}

func pays(out, in []byte) bool { return out != nil && float64(len(out)) < worthwhile*float64(len(in)) }
