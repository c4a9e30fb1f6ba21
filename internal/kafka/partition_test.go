package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/perdure/perdure/internal/kafka"
)

func TestPartitionOfIsTheClients(t *testing.T) {
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("any")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 80).Draw(t, "key")
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		want := partitioner.Partition(&kgo.Record{Key: key}, n)
		if got := kafka.PartitionOf(key, n); int(got) != want {
			t.Fatalf("PartitionOf(%q, %d) = %d, the client says %d", key, n, got, want)
		}
	})
}

// The hashes stand in Kafka's UtilsTest.testMurmur2.
func TestPartitionOfIsJavas(t *testing.T) {
	const n = 1<<31 - 1 // the partition is then the hash without its sign, but for one value
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got, want := kafka.PartitionOf([]byte(key), n), hash&0x7fffffff; got != want {
			t.Errorf("%s: %d, Java says %d", key, got, want)
		}
	}
}

func BenchmarkPartitionOf(b *testing.B) {
	key := []byte("main-1-123456789")
	b.ReportAllocs()
	for b.Loop() {
		_ = kafka.PartitionOf(key, 16)
	}
}
