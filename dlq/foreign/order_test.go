package foreign

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The leader has 10 records, of which its replicas have 5 at first: where the
// others lie no reader sees, and that they are not there must not be said.
func TestATailWaitsForReplicasThatAreBehind(t *testing.T) {
	for name, tt := range map[string]struct {
		after int   // so many answers the high watermark is 10
		ends  int64 // where the log ends at first; later it is 10
		code  int16 // of the answer to who asks for that
		wait  time.Duration
		n     int
		err   error
	}{
		"they come":                        {3, 10, 0, time.Minute, 10, nil},
		"the topic grows":                  {1, 10, 0, time.Minute, 10, nil},
		"they do not come":                 {1000, 10, 0, 300 * time.Millisecond, 0, ErrBehind},
		"a new leader has less":            {1, 15, 0, time.Minute, 10, nil},
		"nobody leads for a while":         {1000, 10, kerr.NotLeaderForPartition.Code, 300 * time.Millisecond, 0, ErrBehind},
		"the broker knows no such replica": {1000, 10, kerr.UnsupportedVersion.Code, time.Minute, 5, nil},
	} {
		t.Run(name, func(t *testing.T) {
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
			if err != nil {
				t.Fatal(err)
			}
			defer fake.Close()
			opts := []kgo.Opt{kgo.SeedBrokers(fake.ListenAddrs()...)}
			cl, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic("orders"))...)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			for range 10 {
				if err := cl.ProduceSync(t.Context(), kgo.StringRecord("x")).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			info, err := kadm.NewClient(cl).ListTopics(t.Context(), "orders")
			if err != nil {
				t.Fatal(err)
			}
			highs, logs := 0, int64(0)
			fake.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				req := kreq.(*kmsg.ListOffsetsRequest)
				if req.Topics[0].Partitions[0].Timestamp != -1 {
					return nil, nil, false
				}
				p := kmsg.NewListOffsetsResponseTopicPartition()
				if p.Offset = 10; req.ReplicaID == -2 {
					if logs++; logs == 1 {
						p.Offset = tt.ends
					} else if name == "the topic grows" {
						p.Offset += logs
					}
					p.ErrorCode = tt.code
				} else if highs++; highs <= tt.after {
					p.Offset = 5
				}
				resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
				resp.Topics = []kmsg.ListOffsetsResponseTopic{{Topic: "orders", Partitions: []kmsg.ListOffsetsResponseTopicPartition{p}}}
				return resp, nil, true
			})
			c, err := Connect(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			n := 0
			whole, err := c.Tail(t.Context(), Part{Topic: "orders", ID: idOf(info["orders"]), Wait: tt.wait}, func(*kgo.Record) bool { n++; return false })
			if !errors.Is(err, tt.err) || whole != (tt.err == nil) || n != tt.n {
				t.Errorf("%d records, whole %v, %v; want %d, %v", n, whole, err, tt.n, tt.err)
			}
		})
	}
}
