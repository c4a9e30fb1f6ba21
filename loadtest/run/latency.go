package run

// Latencies and throughput, from the tally.

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a distribution, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
	Curve []Point `json:"curve"` // by percentile, for the chart
}

// Point is one point of a curve.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// newHistogram holds 1 µs to an hour to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Hour.Microseconds(), 3)
}

// record adds ns, cut to what the histogram holds.
func record(h *hdrhistogram.Histogram, ns int64) {
	us := min(max(ns/1000, h.LowestTrackableValue()), h.HighestTrackableValue())
	_ = h.RecordValue(us) // only values out of bounds fail
}

var curveAt = []float64{0, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97.5, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 100}

func summary(h *hdrhistogram.Histogram) Latency {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	l := Latency{
		Count: h.TotalCount(), Mean: h.Mean() / 1000,
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)),
		P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
	}
	for _, q := range curveAt {
		l.Curve = append(l.Curve, Point{q, ms(h.ValueAtQuantile(q))})
	}
	return l
}

// latencies are from when a task was due, and from its commit, to its beginning.
func (t *Tally) latencies(from int) (due, commit Latency) {
	d, c := newHistogram(), newHistogram()
	for n := from; n < len(t.begun); n++ {
		at := t.begun[n].Load()
		if at == 0 {
			continue
		}
		record(d, at-t.due[n])
		record(c, at-t.accepted[n]) // the handler may begin before COMMIT's answer is here
	}
	return summary(d), summary(c)
}

// Second is one interval of the run.
type Second struct {
	At       float64 `json:"at_s"`     // its end, since the first task was due
	Accepted float64 `json:"accepted"` // a second
	Begun    float64 `json:"begun"`    // a second
	P50      float64 `json:"p50_ms"`   // of the tasks that began in it, from due
	P99      float64 `json:"p99_ms"`
}

// series cuts the run into at most 120 intervals of at least 100 ms.
func (t *Tally) series(from int) []Second {
	if from >= len(t.due) {
		return nil
	}
	first, last := t.due[from], int64(0)
	for n := from; n < len(t.due); n++ {
		first = min(first, t.due[n])
		last = max(last, t.begun[n].Load(), t.accepted[n])
	}
	width := max(int64(100*time.Millisecond), (last-first)/120+1)
	out := make([]Second, (last-first)/width+1)
	hists := make([]*hdrhistogram.Histogram, len(out))
	per := 1e9 / float64(width)
	for n := from; n < len(t.due); n++ {
		out[(t.accepted[n]-first)/width].Accepted += per
		at := t.begun[n].Load()
		if at == 0 {
			continue
		}
		i := (at - first) / width
		out[i].Begun += per
		if hists[i] == nil {
			hists[i] = newHistogram()
		}
		record(hists[i], at-t.due[n])
	}
	for i := range out {
		out[i].At = float64(int64(i+1)*width) / 1e9
		if hists[i] != nil {
			out[i].P50 = float64(hists[i].ValueAtQuantile(50)) / 1000
			out[i].P99 = float64(hists[i].ValueAtQuantile(99)) / 1000
		}
	}
	return out
}
