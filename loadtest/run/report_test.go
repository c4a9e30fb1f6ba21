package run

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	svgs     = regexp.MustCompile(`(?s)<svg.*?</svg>`)
	embedded = regexp.MustCompile(`(?s)<pre id="result">(.*?)</pre>`)
	outside  = regexp.MustCompile(`(src|href)=|@import|url\(`)
)

// TestReportParses: the JSON reads back, the HTML needs nothing else, its charts
// are well-formed and have their lines.
func TestReportParses(t *testing.T) {
	o := small()
	o.Loop, o.Rate, o.Duration = Open, 1000, time.Second
	rep, err := load(t, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	rep.NotCounted = map[string]string{"<b>redis": "elsewhere & far"}
	rep.KafkaAlone, rep.KafkaBeside = &rep.FromCommit, &rep.FromDue
	raw, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(raw, &back); err != nil || back.Begun != 1000 || back.TasksPerSecond == 0 || len(back.Series) == 0 || back.FromDue.Count != 1000 {
		t.Errorf("read back: %v: %s", err, raw)
	}

	var page bytes.Buffer
	if err := rep.HTML(&page); err != nil {
		t.Fatal(err)
	}
	if m := outside.FindString(page.String()); m != "" {
		t.Errorf("the page asks for something else: %s", m)
	}
	if strings.Contains(page.String(), "<b>redis") || !strings.Contains(page.String(), "elsewhere &amp; far") {
		t.Error("names are not escaped")
	}
	if !embedded.MatchString(page.String()) {
		t.Error("the page lacks its JSON")
	}
	charts := svgs.FindAllString(page.String(), -1)
	if len(charts) != 3 {
		t.Fatalf("%d charts, want 3", len(charts))
	}
	for i, lines := range []int{4, 2, 2} {
		if n := polylines(t, charts[i]); n != lines {
			t.Errorf("chart %d has %d lines with points, want %d", i, n, lines)
		}
	}
	var text strings.Builder
	rep.Text(&text)
	for _, want := range []string{"open loop, 1000 tasks/s", "due → handler starts", "Kafka alone", "<b>redis: elsewhere"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
}

// polylines counts the lines that have points, and fails where the SVG is not
// well-formed or a coordinate is not a number.
func polylines(t *testing.T, svg string) (n int) {
	t.Helper()
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("a coordinate is not a number: %s", svg)
	}
	dec := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		el, ok := tok.(xml.StartElement)
		if !ok || el.Name.Local != "polyline" {
			continue
		}
		for _, a := range el.Attr {
			if a.Name.Local == "points" && len(strings.Fields(a.Value)) > 1 {
				n++
			}
		}
	}
}

func TestChartOfNothing(t *testing.T) {
	for _, c := range []chart{{}, {LogY: true}, {Lines: []line{{Points: []Point{{1, 0}}}}}, throughput(nil), overTime([]Second{{At: 1}})} {
		polylines(t, string(c.svg()))
	}
}
