package relaylog

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryBatchComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hops := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Hop {
			return Hop{
				ID:        rapid.Int64().Draw(t, "id"),
				Topic:     rapid.SampledFrom([]string{"tasks.a", "tasks.b", "dlq.a", ""}).Draw(t, "topic"),
				Partition: rapid.Int32().Draw(t, "partition"),
				Offset:    rapid.Int64().Draw(t, "offset"),
			}
		})).Draw(t, "hops")
		got, err := Decode(Encode(hops))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(hops) || (len(hops) > 0 && !reflect.DeepEqual(got, hops)) {
			t.Fatalf("got %v, want %v", got, hops)
		}
	})
}

func TestABatchOfConsecutiveIDsTakesThreeBytesAnID(t *testing.T) {
	var hops []Hop
	offsets := map[int32]int64{}
	for i := int64(0); i < 8000; i++ {
		p := int32(i*7) % 16
		hops = append(hops, Hop{ID: 5_000_000_000 + i, Topic: "tasks.payments", Partition: p, Offset: 1<<40 + offsets[p]})
		offsets[p]++
	}
	if n := len(Encode(hops)); n > 3*len(hops)+600 {
		t.Fatalf("%d hops take %d bytes, want about 3 each", len(hops), n)
	}
}

func TestTornBatchesAreRefused(t *testing.T) {
	whole := Encode([]Hop{{1, "tasks.a", 3, 9}, {2, "tasks.b", 0, math.MaxInt64}})
	for n := range whole {
		if _, err := Decode(whole[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("first %d of %d bytes: error is %v, want ErrCorrupt", n, len(whole), err)
		}
	}
	if _, err := Decode(append(whole, 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: error is %v, want ErrCorrupt", err)
	}
	if _, err := Decode([]byte{version + 1, 0, 0}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("unknown version: error is %v, want ErrCorrupt", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil))
	f.Add(Encode([]Hop{{1, "tasks.a", 3, 9}, {5, "tasks.b", 0, 7}}))
	f.Add([]byte{version, 1, 1, 'x', 0, 1, 2, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		hops, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v does not wrap ErrCorrupt", err)
			}
			return
		}
		again, err := Decode(Encode(hops))
		if err != nil || !reflect.DeepEqual(hops, again) {
			t.Fatalf("decoded %v, encoded and decoded again %v (%v)", hops, again, err)
		}
	})
}
