package run

// Line charts as inline SVG.

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// chart is a line chart. The x axis spans its ticks and points.
type chart struct {
	Title, YLabel string
	LogY          bool
	XTicks        []axisTick
	Lines         []line
}

type line struct {
	Name   string
	Points []Point
}

type axisTick struct {
	At    float64
	Label string
}

const (
	chartW, chartH                  = 860.0, 300.0
	padLeft, padRight, padTop, padB = 64.0, 16.0, 30.0, 28.0
)

// logFloor is where a logarithmic axis begins, in its unit: 10 µs.
const logFloor = 0.01

// svg draws the chart. Names are escaped, everything else is numbers.
func (c chart) svg() template.HTML {
	x0, x1, y0, y1 := c.bounds()
	px := func(x float64) float64 { return padLeft + (x-x0)/(x1-x0)*(chartW-padLeft-padRight) }
	py := func(y float64) float64 {
		if c.LogY {
			y = math.Log10(max(y, logFloor))
		}
		return chartH - padB - (y-y0)/(y1-y0)*(chartH-padTop-padB)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartW, chartH, html.EscapeString(c.Title))
	for _, t := range c.yTicks(y0, y1) {
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`,
			padLeft, chartW-padRight, py(t.At), py(t.At), padLeft-6, py(t.At)+4, t.Label)
	}
	for _, t := range c.XTicks {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text x="%.1f" y="%g" text-anchor="middle">%s</text>`,
			px(t.At), px(t.At), padTop, chartH-padB, px(t.At), chartH-8, html.EscapeString(t.Label))
	}
	fmt.Fprintf(&b, `<text x="%g" y="16" text-anchor="end">%s</text>`, padLeft-6, html.EscapeString(c.YLabel))
	at := padLeft
	for i, l := range c.Lines {
		fmt.Fprintf(&b, `<polyline class="l%d" points="`, i)
		for _, p := range l.Points {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(p.X), py(p.Y))
		}
		fmt.Fprintf(&b, `"/><text class="l%d" x="%g" y="16">%s</text>`, i, at, html.EscapeString(l.Name))
		at += 24 + 7*float64(len(l.Name))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()) //nolint:gosec // escaped above
}

// bounds are the axes' ends; y in log10 where the axis is logarithmic.
func (c chart) bounds() (x0, x1, y0, y1 float64) {
	x0, x1, y0, y1 = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, t := range c.XTicks {
		x0, x1 = min(x0, t.At), max(x1, t.At)
	}
	for _, l := range c.Lines {
		for _, p := range l.Points {
			x0, x1 = min(x0, p.X), max(x1, p.X)
			y0, y1 = min(y0, p.Y), max(y1, p.Y)
		}
	}
	if math.IsInf(y0, 1) { // nothing to draw
		y0, y1 = 0, 1
	}
	if math.IsInf(x0, 1) {
		x0, x1 = 0, 1
	}
	if c.LogY {
		y0, y1 = math.Floor(math.Log10(max(y0, logFloor))), math.Ceil(math.Log10(max(y1, logFloor)))
	} else {
		y0, y1 = 0, y1*1.05
	}
	if x1 == x0 {
		x1 = x0 + 1
	}
	if y1 <= y0 {
		y1 = y0 + 1
	}
	return x0, x1, y0, y1
}

func (c chart) yTicks(y0, y1 float64) (ticks []axisTick) {
	if !c.LogY {
		for _, v := range niceTicks(y0, y1, 6) {
			ticks = append(ticks, axisTick{v, fmt.Sprintf("%g", v)})
		}
		return ticks
	}
	for e := y0; e <= y1; e++ {
		v := math.Pow(10, e)
		ticks = append(ticks, axisTick{v, fmt.Sprintf("%g", v)})
	}
	return ticks
}

// niceTicks are about n round numbers in from..to.
func niceTicks(from, to float64, n int) (ticks []float64) {
	if !(to > from) {
		return []float64{from}
	}
	raw := (to - from) / float64(n)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if step*m >= raw {
			step *= m
			break
		}
	}
	for i := math.Ceil(from / step); i*step <= to*(1+1e-9); i++ {
		ticks = append(ticks, math.Round(i*step*1e6)/1e6)
	}
	return ticks
}
