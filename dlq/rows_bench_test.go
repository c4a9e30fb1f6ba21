package dlq

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// What a letter costs before Postgres sees it.
func BenchmarkRows(b *testing.B) {
	records := make([]*kgo.Record, 1000)
	for i := range records {
		t := &schemas.Task{ID: fmt.Sprintf("main-1-%d", i+1), Kind: "charge", Key: fmt.Sprintf("customer-%d", i), Time: time.Now(), Run: 5, Headers: map[string]string{"x-tenant": "acme"}}
		l := From(&kgo.Record{Topic: "tasks.payments", Offset: int64(i), Key: []byte(t.RecordKey()), Value: bytes.Repeat([]byte("x"), 1024),
			Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t)}, "workers")
		l.Reason, l.ErrorClass, l.Message = schemas.ReasonExhausted, "HTTP 503", fmt.Sprintf("charge %d was refused by the bank: try again after the account is settled", i)
		l.Run, l.Release, l.Catalog, l.DiedAt = 5, "v1", "c0ffee", time.Now()
		l.Attempts = []Attempt{{N: 1, Run: 5, Start: t.Time, End: l.DiedAt, Worker: "worker-a", ErrorClass: l.ErrorClass, Message: l.Message}}
		records[i] = Encode(l)
		records[i].Topic = "dlq.payments"
	}
	x := &Index{queues: map[string]string{"dlq.payments": "payments"}, texts: &texts{}}
	b.ReportAllocs()
	for b.Loop() {
		batch := x.rows(records)
		x.texts.add(x.texts.fresh(batch.letters))
		for i := range batch.letters {
			batch.letters[i].values()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "µs/letter")
}
