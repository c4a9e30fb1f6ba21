package imports

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// One operation is one letter of 2.9 KB, sent back.
func BenchmarkImport(b *testing.B) {
	r := newRig(b)
	var recs []*kgo.Record
	trace := strings.Repeat("\n\tat com.acme.Orders.on(Orders.java:41)", 60)
	for i := range b.N {
		recs = append(recs, &kgo.Record{Topic: r.dlt, Partition: int32(i % 2), Key: []byte("k"), Value: make([]byte, 400),
			Headers: append(spring(r.orders, i%3, i), h("kafka_dlt-exception-stacktrace", "com.acme.Refused: no stock"+trace)...)})
	}
	r.produce(recs...)
	b.ResetTimer()
	began := time.Now()
	if rep := r.run(r.order()); rep.Sent != int64(b.N) {
		b.Fatalf("%+v", rep)
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "letters/s")
}
