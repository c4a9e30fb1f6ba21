package main

// `perdure dlq groups --topic`: any team's dead-letter topic, by cause.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
)

// foreignTopic is a topic that Perdure does not keep an index of.
type foreignTopic struct {
	brokers []string
	topic   string
	since   time.Duration
	text    string
}

func (f *foreignTopic) flags(cmd *cobra.Command) {
	wordVar(cmd.Flags(), &f.topic, "topic", "", "read this dead-letter topic of any system, straight from Kafka")
	wordsVar(cmd.Flags(), &f.brokers, "brokers", "with --topic: host:port, comma-separated; default PERDURE_KAFKA_BROKERS")
}

// config is the environment, with the topic's Kafka.
func (f *foreignTopic) config(c *cli) (config.Config, error) {
	cfg, err := c.config()
	if err != nil {
		return cfg, err
	}
	if len(f.brokers) > 0 {
		cfg.KafkaBrokers = f.brokers
	}
	if len(cfg.KafkaBrokers) == 0 {
		return cfg, exit.Usage(errors.New("say --brokers: where the topic's Kafka listens, such as localhost:9092"))
	}
	return cfg, nil
}

// said is what names the topic in a command to run next, where this one's environment
// is.
func (f *foreignTopic) said() string {
	at := " --topic " + output.Word(f.topic)
	if len(f.brokers) > 0 {
		at += " --brokers " + output.Word(strings.Join(f.brokers, ","))
	}
	return at
}

// open connects to the topic's Kafka, with TLS and SASL as the environment says.
func (f *foreignTopic) open(ctx context.Context, c *cli) (*foreign.Cluster, string, error) {
	cfg, err := f.config(c)
	if err != nil {
		return nil, "", err
	}
	return app.ForeignCluster(ctx, cfg)
}

// foreignReport is the answer of a topic by cause.
type foreignReport struct {
	Topic      string `json:"topic"`
	Cluster    string `json:"cluster,omitempty"`
	Partitions int    `json:"partitions"`
	Undecided  int64  `json:"undecided_offsets,omitempty"` // behind an open transaction: not read
	TookMS     int64  `json:"took_ms"`
	foreign.Summary
}

// foreignGroups reads a topic and shows its groups, or, with a fingerprint, the
// letters of one.
func (c *cli) foreignGroups(ctx context.Context, f *foreignTopic, limit int, fingerprint string) error {
	cl, id, err := f.open(ctx, c)
	if err != nil {
		return err
	}
	defer cl.Close()
	groups := &foreign.Groups{Want: fingerprint, Text: f.text}
	began := time.Now()
	extent, err := c.readForeign(ctx, cl, f, groups.Add)
	if err != nil {
		return err
	}
	if fingerprint != "" {
		g, ok := groups.Find(fingerprint)
		if !ok {
			return fmt.Errorf("%s has no letters of group %s\n  next: perdure dlq groups%s", f.topic, fingerprint, f.said())
		}
		return c.showForeignGroup(ctx, cl, f, &g)
	}
	r := foreignReport{Topic: f.topic, Cluster: id, Partitions: extent.Partitions, Undecided: extent.Undecided,
		TookMS: time.Since(began).Milliseconds(), Summary: groups.Summary(limit)}
	if c.format == output.JSON {
		return c.printer().One(r, nil)
	}
	if err := output.Table(c.printer(), r.Groups, "no dead letters", []string{"GROUP", "LETTERS", "FIRST SEEN", "LAST SEEN", "FROM", "SAMPLE", "ERROR"},
		func(g foreign.Group) []string {
			return []string{g.Group, strconv.FormatInt(g.Letters, 10), g.FirstSeen.Local().Format(time.DateTime), g.LastSeen.Local().Format(time.DateTime),
				strings.Join(g.Origins, ","), strings.TrimPrefix(g.Samples[0].At, f.topic+"/"), output.Cut(said(g.Class, g.Message), 80)}
		}); err != nil {
		return err
	}
	w := c.out
	if c.format == output.JSONL {
		w = c.errOut
	}
	for _, line := range r.words(f.said()) {
		fmt.Fprintln(w, output.Safe(line))
	}
	return nil
}

// readForeign reads a topic with a bar.
func (c *cli) readForeign(ctx context.Context, cl *foreign.Cluster, f *foreignTopic, each func(*kgo.Record)) (foreign.Extent, error) {
	var since time.Time
	if f.since > 0 {
		since = time.Now().Add(-f.since)
	}
	p := &foreign.Progress{}
	finish := func() {}
	x, err := cl.Topic(ctx, f.topic, since, p, func(x foreign.Extent) {
		finish = c.bar(x.Offsets, p.Offsets.Load, func() string { return fmt.Sprintf("%d records", p.Records.Load()) })
	}, each)
	finish()
	return x, f.explain(err)
}

func (f *foreignTopic) explain(err error) error {
	if errors.Is(err, foreign.ErrNoTopic) {
		return exit.Usage(fmt.Errorf("there is no topic %q there, or this user may not see it", f.topic))
	}
	return err
}

// words says what was read, and what could not be found in it; at names the topic.
func (r *foreignReport) words(at string) []string {
	var formats []string
	for _, f := range slices.Sorted(maps.Keys(r.Formats)) {
		formats = append(formats, fmt.Sprintf("%s %d", f, r.Formats[f]))
	}
	lines := []string{fmt.Sprintf("%s of %s, %d partitions, in %.1fs; written by: %s", letters(int(r.Letters)), r.Topic, r.Partitions,
		float64(r.TookMS)/1000, strings.Join(formats, ", "))}
	if r.Letters == 0 {
		lines = nil
	}
	if r.Other > 0 {
		lines = append(lines, fmt.Sprintf("%s of other causes are not shown: --limit shows more, up to %d", letters(int(r.Other)), foreign.MaxGroups))
	}
	for _, w := range []struct {
		n    int64
		what string
	}{
		{r.Without.Error, "no error was found, neither in headers nor in a JSON value; they are grouped by topic alone"},
		{r.Without.Stack, "no stack trace was found; they are grouped by error alone"},
		{r.Without.Origin, "the topic that they came from is not told; they cannot be sent back there"},
		{r.Without.Record, "the record was not copied; it is read from its origin where it still is"},
	} {
		if w.n > 0 {
			lines = append(lines, fmt.Sprintf("  in %d: %s", w.n, w.what))
		}
	}
	if r.Undecided > 0 {
		lines = append(lines, fmt.Sprintf("%d offsets lie behind a transaction that is still open, and were not read", r.Undecided))
	}
	if len(r.Groups) > 0 {
		lines = append(lines, fmt.Sprintf("next: perdure dlq groups %s%s", output.Word(r.Groups[0].Group), at))
	}
	return lines
}

// foreignLetter is a letter of one group, with its record.
type foreignLetter struct {
	foreign.Sample
	// Gone says why the record could not be read from its origin.
	Gone          string          `json:"gone,omitempty"`
	Key           string          `json:"key,omitempty"`
	KeyBase64     []byte          `json:"key_base64,omitempty"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
	Tombstone     bool            `json:"tombstone,omitempty"`
	Headers       [][2]any        `json:"headers,omitempty"` // [[name, base64 value], …], without those that the failure added
}

type foreignGroup struct {
	foreign.Group
	Samples []foreignLetter `json:"samples"`
}

func (c *cli) showForeignGroup(ctx context.Context, cl *foreign.Cluster, f *foreignTopic, g *foreign.Group) error {
	shown := foreignGroup{Group: *g}
	for _, s := range g.Samples {
		l := foreignLetter{Sample: s}
		rec, headers := s.Record, s.Letter.Headers
		if !s.Copied {
			var err error
			rec, err = cl.Original(ctx, &s.Letter)
			switch {
			case err == nil:
				headers = rec.Headers
			case ctx.Err() != nil:
				return ctx.Err()
			default:
				l.Gone = err.Error()
			}
		}
		if rec != nil {
			l.fill(rec, headers)
		}
		shown.Samples = append(shown.Samples, l)
	}
	return c.printer().One(shown, func(w io.Writer) { showForeign(w, f.said(), &shown) })
}

func (l *foreignLetter) fill(r *kgo.Record, headers []kgo.RecordHeader) {
	if utf8.Valid(r.Key) {
		l.Key = string(r.Key)
	} else {
		l.KeyBase64 = r.Key
	}
	switch {
	case r.Value == nil:
		l.Tombstone = true
	case json.Valid(r.Value):
		l.Payload = r.Value
	default:
		l.PayloadBase64 = r.Value
	}
	for _, h := range headers {
		l.Headers = append(l.Headers, [2]any{h.Key, h.Value})
	}
}

func showForeign(w io.Writer, at string, g *foreignGroup) {
	formats := make([]string, len(g.Formats))
	for i, f := range g.Formats {
		formats[i] = string(f)
	}
	output.Fields(w, [2]string{"group", g.Group.Group}, [2]string{"letters", strconv.FormatInt(g.Letters, 10)},
		[2]string{"error", g.Class}, [2]string{"message", g.Message}, [2]string{"at", g.Frame},
		[2]string{"first seen", g.FirstSeen.Local().Format(time.DateTime)}, [2]string{"last seen", g.LastSeen.Local().Format(time.DateTime)},
		[2]string{"from", strings.Join(g.Origins, ", ")}, [2]string{"consumers", strings.Join(g.Consumers, ", ")}, [2]string{"written by", strings.Join(formats, ", ")},
		[2]string{"send back", "perdure dlq import" + at + " --group " + g.Group.Group + " --dry-run"})
	for i := range g.Samples {
		l := &g.Samples[i]
		fmt.Fprintln(w)
		key := l.Key
		if len(l.KeyBase64) > 0 {
			key = string(l.KeyBase64)
		}
		source := ""
		if !l.Copied && l.Gone == "" {
			source = "read from its origin: the letter does not hold it"
		}
		output.Fields(w, [2]string{"letter", l.At}, [2]string{"from", l.Origin}, [2]string{"seen", l.Seen.Local().Format(time.DateTime)},
			[2]string{"record", source}, [2]string{"gone", l.Gone}, [2]string{"key", output.Cut(key, 300)})
		for _, h := range l.Headers {
			v, _ := h[1].([]byte)
			fmt.Fprintf(w, "  %s: %s\n", output.Cut(fmt.Sprint(h[0]), 100), output.Cut(string(v), 300))
		}
		switch {
		case l.Gone != "":
		case l.Tombstone:
			fmt.Fprintln(w, "payload  none: the record is a tombstone")
		case l.Payload != nil:
			fmt.Fprintf(w, "payload\n%s\n", output.Block(cutText(indented(l.Payload), 4000)))
		default:
			fmt.Fprintf(w, "payload (%d bytes, not JSON)\n  %s\n", len(l.PayloadBase64), output.Cut(string(l.PayloadBase64), 2000))
		}
	}
}

// cutText is at most n runes of a text, with a mark where it was cut.
func cutText(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n]) + "…"
}
