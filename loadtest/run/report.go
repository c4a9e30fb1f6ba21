package run

// The result of a run.

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/perdure/perdure/loadtest/run/usage"
)

// Report is a run's result, as JSON.
type Report struct {
	At      time.Time `json:"at"`
	Version string    `json:"version,omitempty"` // of Perdure
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	CPUs    int       `json:"cpus"`
	Options Options   `json:"options"`
	Servers []Server  `json:"servers"`

	Begun   int64 `json:"begun"`   // tasks that began, each counted once
	Repeats int64 `json:"repeats"` // beginnings beyond a task's first
	Foreign int64 `json:"foreign"` // tasks that nobody sent

	// From the first task due to the last one accepted, and done.
	EnqueueSeconds   float64 `json:"enqueue_s"`
	Seconds          float64 `json:"total_s"`
	EnqueuePerSecond float64 `json:"enqueued_per_s"`
	TasksPerSecond   float64 `json:"tasks_per_s"`

	FromDue          Latency  `json:"latency_from_due"`    // to the handler's start
	FromCommit       Latency  `json:"latency_from_commit"` // to the handler's start
	KafkaAlone       *Latency `json:"kafka_alone,omitempty"`
	KafkaBeside      *Latency `json:"kafka_beside,omitempty"` // of a few records a second while the load ran
	KafkaBesideError string   `json:"kafka_beside_error,omitempty"`

	CPU        []CPU             `json:"cpu"`
	CPUTotal   float64           `json:"cpu_us_per_task"` // over all that was counted
	NotCounted map[string]string `json:"cpu_not_counted,omitempty"`

	Series []Second `json:"series"`
}

// CPU is what one part used, from before the first task to after the last
// commit.
type CPU struct {
	Part    string  `json:"part"`
	Seconds float64 `json:"seconds"`
	PerTask float64 `json:"us_per_task"`
}

func (r *Report) addCPU(u usage.Use, missing map[string]string) {
	per := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(r.Options.Tasks) }
	for _, name := range slices.Sorted(maps.Keys(u)) {
		r.CPU = append(r.CPU, CPU{Part: name, Seconds: u[name].Seconds(), PerTask: per(u[name])})
	}
	r.CPUTotal, r.NotCounted = per(u.Total()), missing
}

// Err is why the run shows a fault: a task that ran twice or came from nowhere.
// Repeats are allowed by the promise (a worker that dies is repeated), but in a
// run where nothing dies there must be none.
func (r *Report) Err() error {
	if r.Begun != int64(r.Options.Tasks) || r.Repeats != 0 || r.Foreign != 0 {
		return fmt.Errorf("%d of %d tasks began, %d began again, %d came from nowhere", r.Begun, r.Options.Tasks, r.Repeats, r.Foreign)
	}
	return nil
}

// Text writes the report for a person.
func (r *Report) Text(w io.Writer) {
	o := r.Options
	loop := fmt.Sprintf("closed loop, %d tasks", o.Tasks)
	switch {
	case o.Loop == Open:
		loop = fmt.Sprintf("open loop, %g tasks/s for %s", o.Rate, o.Duration)
		if o.Linger > 0 {
			loop += fmt.Sprintf(", gathered for %s", o.Linger)
		}
	case o.InFlight > 0:
		loop += fmt.Sprintf(", %d in flight", o.InFlight)
	}
	fmt.Fprintf(w, "%s of %d bytes (%s), mix %s\n", loop, o.Payload, o.Entropy, o.Mix)
	for _, s := range r.Servers {
		fmt.Fprintf(w, "  %-9s %s", s.Name, s.Addr)
		if s.Embedded {
			fmt.Fprintf(w, " (embedded: %s)", s.Detail)
		} else if s.Detail != "" {
			fmt.Fprintf(w, " (%s)", s.Detail)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "tasks      %d began, %d of them again\n", r.Begun, r.Repeats)
	fmt.Fprintf(w, "rate       %.0f tasks/s done in %.2f s; enqueued at %.0f/s\n", r.TasksPerSecond, r.Seconds, r.EnqueuePerSecond)
	row := func(name string, l Latency) {
		fmt.Fprintf(w, "%-26s p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f ms\n", name, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	row("due → handler starts", r.FromDue)
	row("commit → handler starts", r.FromCommit)
	if r.KafkaAlone != nil {
		row("Kafka alone, due → polled", *r.KafkaAlone)
	}
	if r.KafkaBeside != nil {
		row("Kafka under it, to polled", *r.KafkaBeside)
	}
	if r.KafkaBesideError != "" {
		fmt.Fprintln(w, "Kafka under it was not measured:", r.KafkaBesideError)
	}
	fmt.Fprintf(w, "CPU        %.1f µs a task", r.CPUTotal)
	for i, c := range r.CPU {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(w, "%s%s %.1f", sep, c.Part, c.PerTask)
	}
	fmt.Fprintln(w)
	for _, name := range slices.Sorted(maps.Keys(r.NotCounted)) {
		fmt.Fprintf(w, "           %s: %s\n", name, r.NotCounted[name])
	}
}
