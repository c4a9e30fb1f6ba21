package main

// The tables, as markdown.

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var parts = []string{"go", "postgres", "kafka", "redis"}

// spread is the median, lowest and highest of some runs.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return spread{}
	}
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{m, v[0], v[len(v)-1]}
}

// quantile is the least value that q of all values do not exceed.
func quantile(values []float64, q float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func (s spread) text(format string) string {
	f := func(v float64) string { return fmt.Sprintf(format, v) }
	return f(s.median) + " (" + f(s.low) + "–" + f(s.high) + ")"
}

func each(runs []*result, of func(*result) float64) []float64 {
	v := make([]float64, len(runs))
	for i, r := range runs {
		v[i] = of(r)
	}
	return v
}

// table is everything that compare prints.
func (c *comparison) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s. %d interleaved runs of each, %d tasks of %d bytes (%s), batches of %d, %d producers. Median (lowest–highest).\n\n",
		time.Now().UTC().Format(time.DateOnly), machine(), c.pairs, c.Tasks, c.Payload, c.Entropy, c.Batch, c.Producers)
	for _, s := range c.settings {
		fmt.Fprintf(&b, "- %s\n", s)
	}
	fmt.Fprintf(&b, "\n| system | tasks/s | µs CPU a task, all | %s |\n|---|---|---|%s\n", strings.Join(parts, " | "), strings.Repeat("---|", len(parts)))
	for _, name := range c.systems {
		runs := c.results[name]
		fmt.Fprintf(&b, "| %s | %s | %s |", name, spreadOf(each(runs, (*result).rate)).text("%.0f"), spreadOf(each(runs, (*result).cpu)).text("%.1f"))
		for _, p := range parts {
			fmt.Fprintf(&b, " %s |", spreadOf(each(runs, func(r *result) float64 { return r.CPU[p] })).text("%.1f"))
		}
		b.WriteString("\n")
	}
	mine := c.results[ours]
	if len(mine) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "\n| %s against | tasks/s, times theirs | CPU a task, theirs by ours | pair by pair: tasks/s | CPU |\n|---|---|---|---|---|\n", ours)
	for _, name := range c.systems {
		if name == ours {
			continue
		}
		var rate, cpu []float64
		var rates, cpus []string
		for i, r := range c.results[name] {
			rate, cpu = append(rate, mine[i].rate()/r.rate()), append(cpu, r.cpu()/mine[i].cpu())
			rates, cpus = append(rates, fmt.Sprintf("%.1f", rate[i])), append(cpus, fmt.Sprintf("%.1f", cpu[i]))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, spreadOf(rate).text("%.1f"), spreadOf(cpu).text("%.1f"), strings.Join(rates, ", "), strings.Join(cpus, ", "))
	}
	return b.String()
}
