package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
)

func newDLQ(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Dead letters: list, show, group by cause, decide",
		Long: `A dead letter is a task that will not be retried by itself, with every attempt's
failure. Letters of one cause have one fingerprint and form a group; a repaired
cause is replayed with perdure replay start --group.`,
		Example: "perdure dlq groups\nperdure dlq ls --kind refund.issue --state open\nperdure dlq show main-1-42",
	}
	cmd.AddCommand(newDLQList(c), newDLQShow(c), newDLQTry(c), newDLQExport(c), newDLQReindex(c), newDLQRecount(c), newDLQImport(c), newDLQMerge(c), newDLQUnmerge(c), newDLQGroups(c),
		newDLQState(c, "ack", "acknowledged", "Say that somebody is on a failure group", ""),
		newDLQMute(c), newDLQNote(c),
		newDLQResolve(c),
		newDLQState(c, "reopen", "open", "Take back what ack, mute or resolve said", ""),
		newDLQDecide(c, "discard", "discarded", "Drop open or held letters for good: nobody wants their tasks to run",
			"Discarded letters stay in the index until its retention is over, and can't be taken back."),
		newDLQDecide(c, "hold", "held", "Set open letters aside for a person",
			"No policy, and no replay of a group, takes a held letter; a replay that names it by --id does."),
		newDLQDecide(c, "release", "released", "Let held letters be open again", ""))
	return cmd
}

// letterFilter is what both lists are filtered by.
type letterFilter struct {
	kind, queue, group, state, reason, key, text string
	since, until                                 time.Duration
}

// filterFlags are those of every list, besides group and key.
var filterFlags = []string{"kind", "queue", "state", "reason", "text", "since", "until"}

// refuse is the usage error of the first of names that was given, where it means nothing.
func refuse(cmd *cobra.Command, why string, names ...string) error {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return exit.Usage(fmt.Errorf("--%s %s", name, why))
		}
	}
	return nil
}

func (f *letterFilter) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	wordVar(fs, &f.kind, "kind", "", "only this kind")
	wordVar(fs, &f.queue, "queue", "", "only this queue")
	wordVar(fs, &f.state, "state", "", "open, held, replaying, resolved or discarded; default all")
	reasonVar(fs, &f.reason, "permanent, exhausted, expired, poison, …")
	wordVar(fs, &f.text, "text", "", "only of groups whose error has this text; a number in it stands for any")
	agoVar(fs, &f.since, "since", "died at most this long ago, such as 24h")
	agoVar(fs, &f.until, "until", "died more than this long ago, such as 1h")
}

func (f *letterFilter) query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"kind": f.kind, "queue": f.queue, "group": f.group, "state": f.state, "reason": f.reason, "key": f.key, "text": f.text} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if f.since > 0 {
		q.Set("since", time.Now().Add(-f.since).UTC().Format(time.RFC3339))
	}
	if f.until > 0 {
		q.Set("until", time.Now().Add(-f.until).UTC().Format(time.RFC3339))
	}
	return q
}

func newDLQList(c *cli) *cobra.Command {
	var f letterFilter
	var where string
	limit, sample := 50, 10_000
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List dead letters, the latest first",
		Long: `--text finds letters by their group: those whose error class and message hold the
text once numbers, ids and quoted strings are taken out of both.

--where is a jq condition over the letter, its headers and its payload. No index has these:
of the letters that the other flags choose, the latest --sample are looked at.`,
		Example: "perdure dlq ls --kind refund.issue --where '.headers[\"x-tenant\"] == \"acme\" and .payload.amount > 100'\nperdure dlq ls --state open --kind refund.issue\nperdure dlq ls --text \"shard 7 is read-only\" --since 24h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			if where == "" {
				if err := refuse(cmd, "is of --where: without it every letter is listed", "sample"); err != nil {
					return err
				}
				sample = 0
			}
			q := f.query()
			if where != "" {
				q.Set("where", where)
			}
			looked := 0
			letters, more, err := pages[dlq.Entry](cmd, cl, "/v1/dead-letters", "letters", q, limit, func(page map[string]json.RawMessage) (enough bool) {
				var n int
				_ = json.Unmarshal(page["looked"], &n) // absent without a condition
				looked += n
				return sample > 0 && looked >= sample
			})
			if err != nil {
				return err
			}
			switch {
			case more && sample > 0 && looked >= sample:
				fmt.Fprintf(c.errOut, "looked at the latest %d letters; older ones may match: --sample %d looks at more, other flags narrow it\n", looked, looked*10)
			case more:
				fmt.Fprintf(c.errOut, "more letters match: --limit %d shows more\n", limit*10)
			}
			return output.Table(c.printer(), letters, "no dead letters", []string{"LETTER", "KIND", "STATE", "REASON", "GROUP", "DIED", "MESSAGE"},
				func(e dlq.Entry) []string {
					return []string{e.Letter, e.Kind, e.State, e.Reason, e.Group, e.DiedAt.Local().Format(time.DateTime), output.Cut(e.Message, 60)}
				})
		},
	}
	f.flags(cmd)
	wordVar(cmd.Flags(), &f.group, "group", "", "only this failure group")
	wordVar(cmd.Flags(), &f.key, "key", "", "only tasks with this key")
	wordVar(cmd.Flags(), &where, "where", "", "only letters for which this jq condition is true, such as '.payload.amount > 100'; needs the verb read-payload")
	limitVar(cmd.Flags(), &sample, "sample", "with --where: look at most at about this many letters")
	limitVar(cmd.Flags(), &limit, "limit", "at most this many")
	return cmd
}

func newDLQExport(c *cli) *cobra.Command {
	var f letterFilter
	var test goTest
	var where string
	cmd := &cobra.Command{
		Use:   "export [ID --as go-test]",
		Short: "Write dead letters with attempts, payloads and headers as NDJSON, or one as a Go test",
		Long: `Without ID it writes every letter that the flags choose, one a line. --where is a jq
condition, as of perdure dlq ls; here every letter that the other flags choose is looked at.

ID --as go-test writes a test into your package (--dir): the letter's task, with its
payload, key, headers and the attempt that it died at, given to the handlers that --setup
registers, as worker/workertest runs them. It fails until they complete it, and stays as a
test of the mended cause. A payload over 4 KiB is written beside it, in testdata.

What it holds came from production: look before you commit it.`,
		Example: `perdure dlq export --group fp2:4771f883ced71064 --state open > letters.ndjson
perdure dlq export main-1-42 --as go-test --dir ./payments --catalog ../catalog.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if err := refuse(cmd, "chooses letters, and ID is one", append([]string{"group", "key", "where"}, filterFlags...)...); err != nil {
					return err
				}
				return test.run(cmd, c, args[0])
			}
			if err := errors.Join(refuse(cmd, "is of one letter: say its ID", goTestFlags...), c.linesOnly(cmd)); err != nil {
				return err
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			q := f.query()
			if where != "" {
				q.Set("where", where)
			}
			return cl.GetLines(cmd.Context(), apiclient.Path("dead-letters", "export"), q, c.exported)
		},
	}
	f.flags(cmd)
	wordVar(cmd.Flags(), &f.group, "group", "", "only this failure group")
	wordVar(cmd.Flags(), &f.key, "key", "", "only tasks with this key")
	wordVar(cmd.Flags(), &where, "where", "", "only letters for which this jq condition is true, such as '.payload.amount > 100'")
	test.flags(cmd.Flags())
	return cmd
}

// pages follows the pages of a list of field up to limit, or until enough, unless nil,
// says of one that it was the last.
func pages[T any](cmd *cobra.Command, cl *apiclient.Client, path, field string, q url.Values, limit int, enough func(page map[string]json.RawMessage) bool) (all []T, more bool, err error) {
	for len(all) < limit {
		var page map[string]json.RawMessage
		q.Set("limit", strconv.Itoa(min(limit-len(all), 1000)))
		if err := cl.Get(cmd.Context(), path, q, &page); err != nil {
			return nil, false, err
		}
		var list []T
		if err := json.Unmarshal(page[field], &list); err != nil {
			return nil, false, fmt.Errorf("the answer to %s: %w", path, err)
		}
		all = append(all, list...)
		next := ""
		if page["next"] == nil {
			return all, false, nil
		}
		if err := json.Unmarshal(page["next"], &next); err != nil {
			return nil, false, fmt.Errorf("the answer to %s: %w", path, err)
		}
		if enough != nil && enough(page) {
			break
		}
		q.Set("cursor", next)
	}
	return all, true, nil
}

const groupsLong = `Muted groups are left out, unless --care muted asks for them.

--where shows groups with a letter for which a jq condition is true, as of perdure dlq ls:
of the letters that the other flags choose, the latest 10,000 are looked at. The counts are
of all the group's letters, MATCHED of those that were looked at.

With --topic it reads a dead-letter topic of any system straight from Kafka, up to where
it ends now, and groups what is there in memory. It joins no group, commits and produces
nothing, and needs no Postgres, no Redis and no running Perdure. It knows the headers of
Kafka Connect, Kafka Streams, share groups, Spring Kafka, Spring Cloud Stream and
SmallRye; of others it takes what headers or a JSON value call an error, and says what it
did not find. TLS and SASL are as the environment says (PERDURE_KAFKA_*).`

func newDLQGroups(c *cli) *cobra.Command {
	var f letterFilter
	var care, where string
	var other foreignTopic
	limit := 100
	cmd := &cobra.Command{
		Use:   "groups [FP]",
		Short: "Causes of death, most open letters first; FP shows one",
		Long:  groupsLong,
		Example: `perdure dlq groups --since 24h
perdure dlq groups fp2:4771f883ced71064
perdure replay start --group fp2:4771f883ced71064 --yes
perdure dlq groups --brokers localhost:9092 --topic orders-dlt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if other.topic != "" {
				if err := refuse(cmd, "is of Perdure's own letters: with --topic there are --text, --since and --limit", "kind", "queue", "state", "reason", "care", "until", "where"); err != nil {
					return err
				}
				if len(args) == 1 {
					if err := refuse(cmd, "is for the list, and FP shows one group", "text", "limit"); err != nil {
						return err
					}
				}
				other.since, other.text = f.since, f.text
				return c.foreignGroups(cmd.Context(), &other, limit, strings.Join(args, ""))
			}
			if cmd.Flags().Changed("brokers") {
				return exit.Usage(errors.New("say --topic: which dead-letter topic of these brokers"))
			}
			if len(args) == 1 {
				if err := refuse(cmd, "is for the list, and FP shows one group: its letters are listed by perdure dlq ls --group FP", append([]string{"care", "limit", "where"}, filterFlags...)...); err != nil {
					return err
				}
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			if len(args) == 1 {
				var g dlq.Group
				if err := cl.Get(cmd.Context(), apiclient.Path("failure-groups", args[0]), nil, &g); err != nil {
					return err
				}
				return c.printer().One(g, func(w io.Writer) { showGroup(w, &g) })
			}
			var answer struct {
				Groups []dlq.Group `json:"groups"`
				Looked int         `json:"looked"`
				More   bool        `json:"more"`
			}
			q := f.query()
			q.Set("limit", strconv.Itoa(min(limit, 1000)))
			if care == "" {
				q.Set("hide_muted", "true")
			} else {
				q.Set("care", care)
			}
			if where != "" {
				q.Set("where", where)
			}
			if err := cl.Get(cmd.Context(), "/v1/failure-groups", q, &answer); err != nil {
				return err
			}
			if answer.More {
				fmt.Fprintf(c.errOut, "looked at the latest %d letters; older ones may match: other flags narrow it\n", answer.Looked)
			}
			columns := []string{"GROUP", "LETTERS", "OPEN", "LAST HOUR", "CARE", "KINDS", "REASONS", "LAST SEEN", "ERROR"}
			if where != "" {
				columns = slices.Insert(columns, 1, "MATCHED")
			}
			return output.Table(c.printer(), answer.Groups, "no dead letters", columns,
				func(g dlq.Group) []string {
					row := []string{g.Group, strconv.FormatInt(g.Letters, 10), strconv.Itoa(g.States["open"]), lastHour(&g), inCare(&g.Care), strings.Join(g.Kinds, ","),
						strings.Join(g.Reasons, ","), g.LastSeen.Local().Format(time.DateTime), output.Cut(g.Sample.ErrorClass+": "+g.Sample.Message, 60)}
					if where != "" {
						row = slices.Insert(row, 1, strconv.FormatInt(g.Matched, 10))
					}
					return row
				})
		},
	}
	f.flags(cmd)
	wordVar(cmd.Flags(), &care, "care", "", "open, acknowledged, muted, resolved or regressed; default all but muted")
	wordVar(cmd.Flags(), &where, "where", "", "only groups with a letter for which this jq condition is true; needs the verb read-payload")
	limitVar(cmd.Flags(), &limit, "limit", "at most this many groups")
	other.flags(cmd)
	return cmd
}

// lastHour is how many letters of a group died within the last hour, as far as they are counted.
func lastHour(g *dlq.Group) string {
	if g.LastHour >= dlq.MostInLastHour {
		return fmt.Sprintf("%d+", dlq.MostInLastHour)
	}
	return strconv.FormatInt(g.LastHour, 10)
}

// inCare is the state of a group's care, and whose it is, in a word or two.
func inCare(c *dlq.Care) string {
	switch {
	case c.Owner != "":
		return c.State + " (" + c.Owner + ")"
	case c.State == "open":
		return ""
	}
	return c.State
}

func showGroup(w io.Writer, g *dlq.Group) {
	states := make([]string, 0, len(g.States))
	for _, s := range []string{"open", "held", "replaying", "resolved", "discarded"} {
		if n := g.States[s]; n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, s))
		}
	}
	care := inCare(&g.Care)
	if u := g.Care.Until; u != nil {
		care += " until " + u.Local().Format(time.DateTime)
	}
	output.Fields(w,
		[2]string{"group", g.Group}, [2]string{"care", care}, [2]string{"note", g.Care.Note}, [2]string{"runbook", g.Care.Runbook}, [2]string{"letters", strconv.FormatInt(g.Letters, 10)}, [2]string{"states", strings.Join(states, ", ")},
		[2]string{"kinds", strings.Join(g.Kinds, ", ")}, [2]string{"queues", strings.Join(g.Queues, ", ")}, [2]string{"reasons", strings.Join(g.Reasons, ", ")},
		[2]string{"releases", strings.Join(g.Releases, ", ")}, [2]string{"last release", g.LastRelease}, [2]string{"first seen", g.FirstSeen.Local().Format(time.DateTime)},
		[2]string{"last seen", g.LastSeen.Local().Format(time.DateTime)}, [2]string{"last day", bars(g.Hours)}, [2]string{"latest", g.Sample.Letter},
		[2]string{"error", g.Sample.ErrorClass}, [2]string{"message", g.Sample.Message},
		[2]string{"replay", "perdure replay start --group " + output.Word(g.Group) + " --yes"})
}

// bars draws the letters of each hour, the oldest first, and says how many the
// last had.
func bars(hours []int64) string {
	if len(hours) == 0 {
		return ""
	}
	top := max(slices.Max(hours), 1)
	var b strings.Builder
	for _, n := range hours {
		if n == 0 {
			b.WriteByte('.')
			continue
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[(n*8-1)/top])
	}
	return fmt.Sprintf("%s %d in the last hour", b.String(), hours[len(hours)-1])
}
