package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/testkit"
)

// documented are the lines of docs/replaying.md that begin so.
func documented(t *testing.T, begin string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/replaying.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, begin) && !strings.Contains(line, "||") {
			lines = append(lines, line)
		}
	}
	return lines
}

// words are a shell's, of a line that has double quotes at most.
func words(line string) (args []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|\S+`).FindAllStringSubmatch(line, -1) {
		if m[1] != "" {
			m[0] = m[1]
		}
		args = append(args, m[0])
	}
	return args
}

// TestTheDocumentedImportRuns takes the commands of the documentation as they
// stand there, but for the names of topics and the group.
func TestTheDocumentedImportRuns(t *testing.T) {
	cleanEnv(t)
	k, db := testkit.Kafka(t), testkit.MigratedPostgres(t)
	t.Setenv("PERDURE_KAFKA_BROKERS", strings.Join(k.Brokers, ","))
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	orders, dlt := k.Prefix+"orders", k.Prefix+"orders-dlt"
	if made, err := kadm.NewClient(cl).CreateTopics(t.Context(), 1, 1, nil, orders, dlt); err != nil || made.Error() != nil {
		t.Fatal(err, made.Error())
	}
	testkit.AwaitTopics(t, cl, orders, dlt)
	letter := func(n int, topic string) *kgo.Record {
		r := &kgo.Record{Topic: dlt, Key: fmt.Append(nil, n), Value: fmt.Appendf(nil, `{"n":%d}`, n)}
		for name, value := range map[string][]byte{"kafka_dlt-original-topic": []byte(topic), "kafka_dlt-original-partition": binary.BigEndian.AppendUint32(nil, 0),
			"kafka_dlt-original-offset": binary.BigEndian.AppendUint64(nil, uint64(n)), "kafka_dlt-exception-fqcn": []byte("com.acme.Refused")} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: value})
		}
		return r
	}
	for n := range 15 {
		if err := cl.ProduceSync(t.Context(), letter(n, orders)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.ProduceSync(t.Context(), letter(15, "none\x1b[31m")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	l, _ := foreign.Read(letter(0, orders))

	lines := documented(t, "perdure dlq import")
	if len(lines) != 3 {
		t.Fatalf("the documentation has %d imports, this test knows 3: %q", len(lines), lines)
	}
	import_ := func(line string) (int, string, string) {
		t.Helper()
		line = strings.NewReplacer("orders-dlt", dlt, "--origin orders", "--origin "+orders, "fp2:50ab34a0ea8278d2", l.Fingerprint).Replace(line)
		return call(t, words(line)[1:]...)
	}
	if code, _, errOut := import_(lines[0]); code == 0 || !strings.Contains(errOut, "PERDURE_POSTGRES_URL") {
		t.Errorf("without a database: exit %d, %s", code, errOut)
	}
	t.Setenv("PERDURE_POSTGRES_URL", db.URL)
	code, out, errOut := import_(lines[0])
	if code != 0 || !strings.Contains(out, "would send  15") || !strings.Contains(out, "15 to "+orders) || !strings.Contains(out, "no_topic") || !strings.Contains(out, "nothing was sent") || strings.Contains(out, "\x1b") {
		t.Errorf("%s: exit %d\n%s%s", lines[0], code, out, errOut)
	}
	code, out, errOut = import_(lines[1])
	if code != 0 || !strings.Contains(out, "sent     10") || !strings.Contains(out, "there may be more") {
		t.Errorf("%s: exit %d\n%s%s", lines[1], code, out, errOut)
	}
	code, out, errOut = import_(lines[2])
	var rep struct {
		Import, Topic string
		Sent          int
		Before        int `json:"sent_before"`
		To            []struct{ Topic string }
	}
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != 0 || rep.Sent != 5 || rep.Before != 10 || rep.To[0].Topic != orders || !strings.HasPrefix(rep.Import, "i-") {
		t.Errorf("%s: exit %d, %v\n%s%s", lines[2], code, err, out, errOut)
	}
	if code, out, _ := import_(lines[2]); code != 0 || !strings.Contains(out, `"sent_before": 15`) {
		t.Errorf("once more: exit %d\n%s", code, out)
	}
	c, err := foreign.Connect([]kgo.Opt{kgo.SeedBrokers(k.Brokers...)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen := map[string]int{}
	if err := c.InOrder(t.Context(), orders, time.Time{}, &foreign.Progress{}, func(foreign.Extent) error { return nil }, func(recs []*kgo.Record) error {
		for _, r := range recs {
			seen[string(r.Value)]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for n := range 15 {
		if v := fmt.Sprintf(`{"n":%d}`, n); seen[v] != 1 || len(seen) != 15 {
			t.Errorf("%s came back %d times, %d values", v, seen[v], len(seen))
		}
	}

	at := "dlq import --topic " + dlt
	for args, want := range map[string]struct {
		code int
		says string
	}{
		at:                                 {3, "look with --dry-run"},
		at + " --yes":                      {2, "say --why"},
		at + " --yes --dry-run --why x":    {2, "either"},
		at + " --dry-run --rate -1":        {2, "--rate"},
		at + " --dry-run --rate NaN":       {2, "--rate"},
		at + " --dry-run --rate Inf":       {2, "--rate"},
		at + " --dry-run --rate 1e-12":     {2, "--rate"},
		at + " --dry-run --group fp1:none": {1, "no letter matches"},
		at + " --dry-run --to none":        {3, "there is no topic"},
		at + " --dry-run --to " + k.Prefix + "tasks.x --brokers " + k.Brokers[0]: {3, "no topic"},
		at + " --dry-run --to tasks.x":                                           {3, "Perdure's own"},
		at + " --dry-run --to --yes":                                             {2, "--to"},
		at + " --dry-run --origin none\x1b[31m":                                  {3, "1 letter refused: no_topic"},
		"dlq import --dry-run":                                                   {2, "say --topic"},
		"dlq import --topic none --dry-run":                                      {2, `no topic "none"`},
		at + " --reason x --yes --since 1ns":                                     {1, "no letter matches"}, // --reason is --why
	} {
		if code, _, errOut := call(t, strings.Fields(args)...); code != want.code || !strings.Contains(errOut, want.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s", args, code, want.code, want.says, errOut)
		}
	}
}
