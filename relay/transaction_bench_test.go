package relay

// What a transactional.id would cost (docs/decisions/0282): the records of a pass over
// four partitions, acknowledged by all replicas, with a Kafka transaction around them
// and without.
// `.ci/with-servers go test -run - -bench Transaction -benchtime 300x ./relay`

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func BenchmarkTransaction(b *testing.B) {
	g := newRig(b)
	ctx := context.Background()
	opts := g.relay("bench", nil).deps.Kafka
	topic := fmt.Sprintf("transaction-%d", time.Now().UnixNano())
	plain, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), kgo.DefaultProduceTopic(topic))...)
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	if _, err := kadm.NewClient(plain).CreateTopic(ctx, 4, 1, nil, topic); err != nil {
		b.Fatal(err)
	}
	inside, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), kgo.DefaultProduceTopic(topic), kgo.TransactionalID(topic))...)
	if err != nil {
		b.Fatal(err)
	}
	defer inside.Close()
	value := incompressible(1024)
	for _, n := range []int{1, 10, 100, 1000} {
		records := func() []*kgo.Record {
			rs := make([]*kgo.Record, n)
			for i := range rs {
				rs[i] = &kgo.Record{Key: fmt.Append(nil, i), Value: value}
			}
			return rs
		}
		for _, how := range []string{"without", "with"} {
			b.Run(fmt.Sprintf("%d records/%s", n, how), func(b *testing.B) {
				own, brokers := ownCPU(), brokersCPU()
				for b.Loop() {
					if how == "without" {
						err = plain.ProduceSync(ctx, records()...).FirstErr()
					} else if err = inside.BeginTransaction(); err == nil {
						if err = inside.ProduceSync(ctx, records()...).FirstErr(); err == nil {
							err = inside.EndTransaction(ctx, kgo.TryCommit)
						}
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "ms/pass")
				b.ReportMetric(float64((ownCPU()-own+brokersCPU()-brokers).Microseconds())/float64(b.N), "CPU-µs/pass")
			})
		}
	}
}
