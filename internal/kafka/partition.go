package kafka

// Which partition a key has, without a client: murmur2, as every Kafka client
// that follows the Java one.

import "encoding/binary"

// PartitionOf returns the partition, of n, of a record with this key: what
// kgo.StickyKeyPartitioner(nil) and Java's default partitioner choose. n must be
// above zero.
func PartitionOf(key []byte, n int) int32 {
	return int32(murmur2(key)&0x7fffffff) % int32(n)
}

// murmur2 is org.apache.kafka.common.utils.Utils.murmur2: MurmurHash2 by Austin
// Appleby with Kafka's seed.
func murmur2(b []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b)
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
