package worker

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/tracker"
	"github.com/perdure/perdure/schemas"
)

// TestWhatIsNotFoundIsLookedForAgain: a delivery that is nowhere for a moment is
// named as soon as it is found, and one that stays nowhere is told of all the same;
// each once.
func TestWhatIsNotFoundIsLookedForAgain(t *testing.T) {
	met, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	track, err := tracker.New(0, "", [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	in := &intake{queue: "q"}
	a := &assignment{intake: in, tracker: track}
	in.assigned = map[int32]*assignment{0: a}
	p := &pipeline{Worker: &Worker{
		cfg: Config{HeldAlarm: 5 * time.Second}, met: met, log: slog.New(slog.NewTextHandler(&log, nil)), intakes: []*intake{in},
	}}
	now := time.Now()
	said := func(seconds int, with string) int {
		p.stepOldest(now.Add(time.Duration(seconds) * time.Second))
		return strings.Count(log.String(), with)
	}
	track.Deliver(0, 0)
	track.Deliver(1, 0)
	for s := range 7 {
		if said(s, "low watermark") != 0 {
			t.Fatalf("after %d s it is not found, and was said: %s", s, log.String())
		}
	}
	d := &delivery{asg: a, rec: &kgo.Record{Offset: 0}, task: schemas.Task{ID: "main-1-1"}}
	p.doubts = append(p.doubts, d)
	if said(7, "main-1-1") != 1 || said(8, "low watermark") != 1 {
		t.Errorf("found after 7 s: %s", log.String())
	}
	track.Ack(0)
	if said(9, "low watermark") != 1 || said(23, "low watermark") != 1 {
		t.Errorf("the next was said too early: %s", log.String())
	}
	if said(24, "does not know where it stands") != 1 || said(25, "low watermark") != 2 {
		t.Errorf("the next was not said, or twice: %s", log.String())
	}
}
