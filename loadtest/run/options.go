package run

// What a run is asked to do.

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The loops.
const (
	Closed = "closed" // the next task is sent when there is room for it
	Open   = "open"   // tasks are sent when they are due, whatever happens
)

// The entropies of a payload.
const (
	Random = "random" // base64 of noise: compresses by a quarter, by entropy coding alone
	Text   = "text"   // words: compresses well
)

// Options of one run. Defaults fills what is zero, if zero means nothing.
type Options struct {
	Loop     string        `json:"loop"`
	Tasks    int           `json:"tasks"`                 // closed: how many; open: rate × duration
	InFlight int           `json:"in_flight,omitempty"`   // closed: accepted and not begun, at most; 0 = all of them
	Rate     float64       `json:"rate,omitempty"`        // open: tasks a second
	Duration time.Duration `json:"duration_ns,omitempty"` // open
	Linger   time.Duration `json:"linger_ns,omitempty"`   // open: how long a producer gathers what is due before it sends it

	Payload int           `json:"payload_bytes"`
	Entropy string        `json:"entropy"`
	Mix     Mix           `json:"mix"`
	Sleep   time.Duration `json:"sleep_ns,omitempty"` // of a sleep task

	Producers   int `json:"producers"`   // that send at once
	Batch       int `json:"batch"`       // tasks in a transaction, at most
	Concurrency int `json:"concurrency"` // of the worker
	Partitions  int `json:"partitions"`  // of the queue
	Warmup      int `json:"warmup"`      // tasks before those that count

	Baseline bool           `json:"baseline,omitempty"` // open: also measure Kafka alone at this rate
	Patience time.Duration  `json:"patience_ns"`        // without any progress, until the run is given up
	Progress func(Progress) `json:"-"`                  // called some times a second; nil = not
}

// maxTasks bounds the memory of a run: 28 bytes a task.
const maxTasks = 100_000_000

// Defaults are those of the command line.
func Defaults() Options {
	return Options{
		Loop: Closed, Tasks: 50_000, Rate: 1000, Duration: 30 * time.Second,
		Payload: 1024, Entropy: Random, Mix: Mix{Noop: 1}, Sleep: 10 * time.Millisecond,
		Producers: 2, Batch: 1000, Concurrency: 64, Partitions: 4, Warmup: 1000, Patience: time.Minute,
	}
}

// CheckGiven refuses what was asked for by hand and means nothing in the loop:
// with it left out in silence, another run is measured than was meant. given
// reports whether an option of that name was.
func (o *Options) CheckGiven(given func(name string) bool) error {
	other, loop := map[string][]string{Closed: {"rate", "duration", "linger"}, Open: {"tasks", "in-flight"}}, Open
	if o.Loop == Open {
		loop = Closed
	}
	var errs []error
	for _, name := range other[o.Loop] {
		if given(name) {
			errs = append(errs, fmt.Errorf("%s: the loop is %s: use it with a loop that is %s", name, o.Loop, loop))
		}
	}
	return errors.Join(errs...)
}

// Check says what is wrong with o, and derives Tasks in an open loop.
func (o *Options) Check() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(o.Loop != Closed && o.Loop != Open, "loop %q: want %s or %s", o.Loop, Closed, Open)
	if o.Loop == Open {
		wrong(!(o.Rate > 0 && o.Rate <= 1e6), "rate %v: want more than 0 and at most 1000000 tasks a second", o.Rate)
		wrong(o.Duration < 100*time.Millisecond || o.Duration > 24*time.Hour, "duration %s: want 100ms to 24h", o.Duration)
		wrong(o.Linger < 0 || o.Linger > 10*time.Second, "linger %s: want 0 to 10s", o.Linger)
		o.Tasks, o.InFlight = int(o.Rate*o.Duration.Seconds()), 0
	} else {
		o.Rate, o.Duration, o.Linger = 0, 0, 0
		wrong(o.Baseline, "baseline: Kafka alone is compared at a rate: use it with an open loop")
	}
	wrong(o.Tasks < 1 || o.Tasks > maxTasks, "%d tasks: want 1 to %d", o.Tasks, maxTasks)
	wrong(o.InFlight < 0, "%d in flight: want 0 (no limit) or more", o.InFlight)
	wrong(o.Payload < minPayload || o.Payload > 1<<20, "payload of %d bytes: want %d to %d", o.Payload, minPayload, 1<<20)
	wrong(o.Entropy != Random && o.Entropy != Text, "entropy %q: want %s or %s", o.Entropy, Random, Text)
	wrong(o.Mix.total() == 0, "the mix is empty: want, for example, noop=8,sleep=1,http=1")
	wrong(o.Sleep < 0 || o.Sleep > 20*time.Second, "sleep %s: want 0 to 20s", o.Sleep)
	wrong(o.Producers < 1 || o.Producers > 256, "%d producers: want 1 to 256", o.Producers)
	wrong(o.Batch < 1 || o.Batch > 10_000, "batches of %d: want 1 to 10000", o.Batch)
	wrong(o.Concurrency < 1 || o.Concurrency > 100_000, "concurrency %d: want 1 to 100000", o.Concurrency)
	wrong(o.Partitions < 1 || o.Partitions > 1000, "%d partitions: want 1 to 1000", o.Partitions)
	wrong(o.Warmup < 0 || o.Warmup > maxTasks, "warm-up of %d tasks: want 0 to %d", o.Warmup, maxTasks)
	wrong(o.Patience <= 0, "patience %s: want more than 0", o.Patience)
	return errors.Join(errs...)
}

// The kinds that a run can send.
const (
	Noop  = "noop"  // a Go handler that does nothing
	Sleep = "sleep" // a Go handler that waits for Options.Sleep
	HTTP  = "http"  // an HTTP executor whose endpoint answers at once
)

var kinds = []string{Noop, Sleep, HTTP}

// KindName is the catalog's name of a kind of the mix.
func KindName(kind string) string { return "load." + kind }

// Mix says how many of each kind there are among their sum.
type Mix map[string]int

// ParseMix reads noop=8,sleep=1.
func ParseMix(s string) (Mix, error) {
	m := Mix{}
	for _, part := range strings.Split(s, ",") {
		kind, weight, found := strings.Cut(strings.TrimSpace(part), "=")
		n := 1
		if found {
			var err error
			if n, err = strconv.Atoi(weight); err != nil || n < 0 || n > 1e6 {
				return nil, fmt.Errorf("mix %q: %q is no weight (0 to 1000000)", s, weight)
			}
		}
		if !slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("mix %q: there is no kind %q: want %s", s, kind, strings.Join(kinds, ", "))
		}
		if _, twice := m[kind]; twice {
			return nil, fmt.Errorf("mix %q: %s stands there twice", s, kind)
		}
		m[kind] = n
	}
	if m.total() == 0 {
		return nil, fmt.Errorf("mix %q: every weight is 0", s)
	}
	return m, nil
}

// String is what ParseMix reads.
func (m Mix) String() string {
	var parts []string
	for _, k := range kinds {
		if m[k] > 0 {
			parts = append(parts, k+"="+strconv.Itoa(m[k]))
		}
	}
	return strings.Join(parts, ",")
}

func (m Mix) total() (sum int) {
	for _, n := range m {
		sum += n
	}
	return sum
}

// names lists the catalog's kind names, so that the kind of task n is
// names[n mod len]: evenly spread, and the same in every run.
func (m Mix) names() []string {
	left, total := map[string]int{}, m.total()
	names := make([]string, 0, total)
	for range total {
		best := ""
		for _, k := range kinds { // smooth weighted round robin
			left[k] += m[k]
			if m[k] > 0 && (best == "" || left[k] > left[best]) {
				best = k
			}
		}
		left[best] -= total
		names = append(names, KindName(best))
	}
	return names
}
