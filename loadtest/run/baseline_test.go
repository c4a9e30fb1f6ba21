package run

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKafkaItselfIsMeasuredThreeTimes: before, after, and under the load. A failure of
// the last costs its figure; the report says so.
func TestKafkaItselfIsMeasuredThreeTimes(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	o := small()
	o.Loop, o.Rate, o.Duration, o.Baseline = Open, 1000, 200*time.Millisecond, true
	measure := func(topics string) (*Report, error) {
		return load(t, o, func(f *fake) {
			f.kafka = &Baseline{Opts: []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, Topic: topics}
		})
	}
	rep, err := measure("whole")
	if err != nil {
		t.Fatal(err)
	}
	if rep.KafkaAlone.Count != 200 || rep.KafkaBeside.Count != 10 || rep.KafkaBesideError != "" {
		t.Errorf("%d records alone, want 200, and %d under the load, want 10; %q", rep.KafkaAlone.Count, rep.KafkaBeside.Count, rep.KafkaBesideError)
	}

	refused := errors.New("no more topics")
	cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if req.(*kmsg.CreateTopicsRequest).Topics[0].Topic != "part-beside" {
			return nil, nil, false
		}
		return nil, refused, true
	})
	if rep, err = measure("part"); err != nil {
		t.Fatal(err)
	}
	if rep.KafkaAlone.Count != 200 || rep.KafkaBeside != nil || !strings.Contains(rep.KafkaBesideError, "beside the load: make topic part-beside") {
		t.Errorf("%d records alone, want 200; under the load %v, and it says %q", rep.KafkaAlone.Count, rep.KafkaBeside, rep.KafkaBesideError)
	}
	var text, page strings.Builder
	rep.Text(&text)
	if err := rep.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"text": text.String(), "page": page.String()} {
		if !strings.Contains(s, "was not measured: ") {
			t.Errorf("the %s does not say that Kafka under the load was not measured", name)
		}
	}
}
