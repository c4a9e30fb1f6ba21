package foreign

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkAdd is what a letter of Spring's with its stack trace costs.
func BenchmarkAdd(b *testing.B) {
	trace := strings.Replace(springTrace, "\tat java.base", strings.Repeat("\tat org.springframework.kafka.listener.Frame.call(Frame.java:12)\n", 30)+"\tat java.base", 1)
	recs := make([]*kgo.Record, 100)
	for i := range recs {
		recs[i] = &kgo.Record{Topic: "dlt", Value: make([]byte, 1000), Headers: h("kafka_dlt-original-topic", "orders", "kafka_dlt-exception-fqcn", "x.Y",
			"kafka_dlt-exception-stacktrace", strings.ReplaceAll(trace, "12x", fmt.Sprint("12x", i)))}
	}
	g := &Groups{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		g.Add(recs[i%100])
	}
	if s := g.Summary(0); len(s.Groups) != 1 {
		b.Fatal(len(s.Groups))
	}
}
