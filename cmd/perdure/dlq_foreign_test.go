package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// TestAnyDeadLetterTopicIsGrouped needs nothing but Kafka: no Postgres, no Redis,
// no catalog, no running Perdure.
func TestAnyDeadLetterTopicIsGrouped(t *testing.T) {
	cleanEnv(t)
	k := testkit.Kafka(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	jobs, dlt := k.Prefix+"jobs", k.Prefix+"jobs-dlt"
	if made, err := adm.CreateTopics(t.Context(), 1, 1, nil, jobs, dlt); err != nil || made.Error() != nil {
		t.Fatal(err, made.Error())
	}
	produce := func(topic string, key, value []byte, headers ...string) {
		t.Helper()
		r := &kgo.Record{Topic: topic, Key: key, Value: value}
		for i := 0; i < len(headers); i += 2 {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
		}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produce(jobs, []byte("k0"), []byte(`{"n":0}`), "x-tenant", "acme")
	produce(jobs, []byte("k1"), []byte("\x1b[31m\xff"))
	below := kadm.Offsets{}
	below.AddOffset(jobs, 0, 1, -1)
	for offset := range 3 { // 0 is deleted below, 1 is there, 2 never was
		produce(dlt, nil, nil, "__dlq.errors.topic", jobs, "__dlq.errors.partition", "0", "__dlq.errors.offset", fmt.Sprint(offset),
			"__dlq.errors.group", "workers", "__dlq.errors.delivery.count", "5", "__dlq.errors.message", "Delivery count limit reached.")
	}
	produce(dlt, []byte("k"), []byte(`{"amount":12}`), "x-tenant", "acme", "dead-letter-reason", "no \x1b[31mshop 7", "dead-letter-topic", jobs)
	produce(dlt, nil, []byte("of nobody"))
	if done, err := adm.DeleteRecords(t.Context(), below); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}

	at := " --topic " + dlt + " --brokers " + strings.Join(k.Brokers, ",")
	out := says(t, "dlq groups"+at, "Delivery count limit reached.", `no \x1b[31mshop 7`, "5 letters of "+dlt, "share-group 3, smallrye 1, unknown 1",
		"in 1: no error was found", "in 3: the record was not copied", "next: perdure dlq groups fp2:")
	if strings.Contains(out, "\x1b") {
		t.Errorf("an escape code reaches the terminal: %q", out)
	}
	if _, next, _ := strings.Cut(out, "next: perdure "); strings.Join(strings.Fields(next)[3:], " ") != strings.TrimSpace(at) {
		t.Errorf("what is next is not of these brokers: %s", next)
	}
	var report struct {
		Topic   string
		Letters int
		Groups  []struct {
			Group   string
			Letters int
			Samples []struct{ At, Origin string }
		}
	}
	if out := says(t, "dlq groups --text DELIVERY"+at, "Delivery count"); strings.Count(out, "fp2:") != 2 || strings.Contains(out, "shop 7") { // its line, and what is next
		t.Errorf("--text shows\n%s", out)
	}
	if err := json.Unmarshal([]byte(says(t, "dlq groups -o json"+at)), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Groups) != 3 || report.Letters != 5 || report.Groups[0].Letters != 3 || report.Groups[0].Samples[1].Origin != jobs+"/0/1" || report.Groups[0].Samples[1].At != dlt+"/0/1" {
		t.Errorf("%+v", report)
	}
	says(t, "dlq groups --limit 1"+at, "2 letters of other causes are not shown")
	says(t, "dlq groups --since 1h"+at, "5 letters of")

	group := report.Groups[0].Group
	out = says(t, "dlq groups "+group+at, "workers", "read from its origin", "gone", "the record is not there any more", `\x1b[31m\xff`, "perdure dlq import"+at+" --group "+group+" --dry-run")
	if strings.Contains(out, "\x1b") {
		t.Errorf("an escape code reaches the terminal: %q", out)
	}
	var one struct {
		Samples []struct {
			Gone, Key     string
			PayloadBase64 []byte `json:"payload_base64"`
		}
	}
	if err := json.Unmarshal([]byte(says(t, "dlq groups -o json "+group+at)), &one); err != nil {
		t.Fatal(err)
	}
	if s := one.Samples; len(s) != 3 || s[0].Gone == "" || s[1].Key != "k1" || string(s[1].PayloadBase64) != "\x1b[31m\xff" || s[2].Gone == "" {
		t.Errorf("%+v", one)
	}

	for args, want := range map[string]struct {
		code int
		says string
	}{
		"dlq groups --topic none --brokers " + k.Brokers[0]: {2, `no topic "none"`},
		"dlq groups fp1:0" + at:                             {1, "no letters of group fp1:0"},
		"dlq groups --kind x" + at:                          {2, "--kind is of Perdure's own letters"},
		"dlq groups --brokers x:1":                          {2, "say --topic"},
		"dlq groups --topic x":                              {2, "say --brokers"},
		"dlq groups --topic --brokers x":                    {2, "--topic"},
	} {
		if code, _, errOut := call(t, strings.Fields(args)...); code != want.code || !strings.Contains(errOut, want.says) {
			t.Errorf("%s: exit %d, %s", args, code, errOut)
		}
	}
	t.Setenv("PERDURE_KAFKA_BROKERS", strings.Join(k.Brokers, ","))
	says(t, "dlq groups --topic "+dlt, "5 letters of")
}
