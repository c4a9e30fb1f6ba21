//go:build soak

package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
)

// Four members answer for a record each at the same moment, again and again. Kafka 4.3
// counts some of them as left after a few of five hundred such rounds; a nudge mends it.
func TestSoakALagThatIsTooHighIsMended(t *testing.T) {
	q := newSharedQueue(t)
	accepted := make(chan struct{}, 100)
	for range 4 {
		member := q.member(kgo.ClientID(kafka.Nudgeable("w")), kgo.ShareMaxRecords(1), kgo.ShareMaxRecordsStrict(),
			kgo.ShareAckCallback(func(_ *kgo.Client, results kgo.ShareAckResults) {
				if err := results.Error(); err != nil {
					t.Errorf("an answer was not taken: %v", err)
				}
			}))
		go func() {
			for fetches := member.PollRecords(t.Context(), 1); !fetches.IsClientClosed() && t.Context().Err() == nil; fetches = member.PollRecords(t.Context(), 1) {
				for _, r := range fetches.Records() {
					r.Ack(kgo.AckAccept)
					if member.FlushAcks(t.Context()) == nil {
						accepted <- struct{}{}
					}
				}
			}
		}()
	}
	await := func(n int) {
		t.Helper()
		for range n {
			select {
			case <-accepted:
			case <-deadline(t).Done():
				t.Fatal("a record was not accepted")
			}
		}
	}
	const rounds = 500
	wrong := 0
	for range rounds {
		recs := make([]*kgo.Record, 4)
		for i := range recs {
			recs[i] = &kgo.Record{Topic: q.topic, Partition: 0, Value: []byte("x")}
		}
		if err := q.byHand.ProduceSync(deadline(t), recs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		await(4)
		for range 20 {
			if q.at().Left == 0 {
				break
			}
			time.Sleep(50 * time.Millisecond) // the answers are taken: what is left now is not
		}
		if q.at().Left == 0 {
			continue
		}
		wrong++
		var nudger kafka.Nudger
		for range 2 {
			if _, err := nudger.Look(deadline(t), q.cl, q.group, q.topic); err != nil {
				t.Fatal(err)
			}
		}
		await(1)
		eventually(t, "nothing is left", func() bool { return q.at().Left == 0 })
	}
	t.Logf("after %d of %d rounds Kafka counted finished records as left", wrong, rounds)
}
