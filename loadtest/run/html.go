package run

// The report as one HTML file that needs no other.

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
)

//go:embed report.html.tmpl
var reportHTML string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"f0": func(v float64) string { return fmt.Sprintf("%.0f", v) },
	"f1": func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"f2": func(v float64) string { return fmt.Sprintf("%.2f", v) },
}).Parse(reportHTML))

type latencyRow struct {
	Name string
	Latency
}

// HTML writes the report with charts; the JSON is in it too.
func (r *Report) HTML(w io.Writer) error {
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	rows := []latencyRow{{"from when due to the handler's start", r.FromDue}, {"from commit to the handler's start", r.FromCommit}}
	if r.KafkaAlone != nil {
		rows = append(rows, latencyRow{"Kafka alone: from when due until polled", *r.KafkaAlone})
	}
	if r.KafkaBeside != nil {
		rows = append(rows, latencyRow{"Kafka under this load: from when due until polled", *r.KafkaBeside})
	}
	return reportTemplate.Execute(w, map[string]any{
		"R": r, "Rows": rows, "JSON": string(raw), "Missing": slices.Sorted(maps.Keys(r.NotCounted)),
		"Percentiles": percentiles(rows).svg(), "Throughput": throughput(r.Series).svg(), "OverTime": overTime(r.Series).svg(),
	})
}

// nines puts percentiles on a scale that shows the tail: 90, 99, 99.9 are
// equally far apart.
func nines(percentile float64) float64 { return -math.Log10(1 - min(percentile, 99.995)/100) }

func percentiles(rows []latencyRow) chart {
	c := chart{Title: "Latency by percentile", YLabel: "ms", LogY: true}
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		c.XTicks = append(c.XTicks, axisTick{nines(p), fmt.Sprintf("%g", p)})
	}
	for _, row := range rows {
		l := line{Name: row.Name}
		for _, p := range row.Curve {
			l.Points = append(l.Points, Point{nines(p.X), p.Y})
		}
		c.Lines = append(c.Lines, l)
	}
	return c
}

func throughput(series []Second) chart {
	c := chart{Title: "Throughput over time", YLabel: "tasks/s"}
	accepted, begun := line{Name: "accepted"}, line{Name: "begun"}
	for _, s := range series {
		accepted.Points = append(accepted.Points, Point{s.At, s.Accepted})
		begun.Points = append(begun.Points, Point{s.At, s.Begun})
	}
	c.Lines = []line{accepted, begun}
	return c.seconds(series)
}

func overTime(series []Second) chart {
	c := chart{Title: "Latency over time, from when due", YLabel: "ms", LogY: true}
	p50, p99 := line{Name: "p50"}, line{Name: "p99"}
	for _, s := range series {
		if s.Begun > 0 {
			p50.Points = append(p50.Points, Point{s.At, s.P50})
			p99.Points = append(p99.Points, Point{s.At, s.P99})
		}
	}
	c.Lines = []line{p50, p99}
	return c.seconds(series)
}

// seconds gives a chart over time its ticks.
func (c chart) seconds(series []Second) chart {
	if len(series) == 0 {
		return c
	}
	for _, v := range niceTicks(0, series[len(series)-1].At, 8) {
		c.XTicks = append(c.XTicks, axisTick{v, fmt.Sprintf("%gs", v)})
	}
	return c
}
