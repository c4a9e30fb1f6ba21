package app

// Every metric stands in docs/operating.md, and only those that there are.

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/testkit"
)

var (
	described  = regexp.MustCompile(`fqName: "(perdure_\w+)", help: "(.*?)", (?:unit: ".*", )?constLabels: .*variableLabels: {(.*)}}$`)
	documented = regexp.MustCompile("(?m)^\\| `(perdure_\\w+(?:{[a-z_,]+})?)` \\|")
)

func TestEveryMetricIsDocumented(t *testing.T) {
	root := t.TempDir()
	catalog := filepath.Join(root, "catalog.yaml")
	text := "version: 1\nqueues: {q: {partitions: 1}}\nkinds: {k: {queue: q, executor: {http: {url: 'http://127.0.0.1:1/'}}}}\n"
	if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	db, k, r := testkit.Postgres(t), testkit.Kafka(t), testkit.Redis(t)
	ctx, cancel := context.WithCancel(t.Context())
	n, err := NewNode(ctx, Env{ErrOut: io.Discard, Out: io.Discard, Config: config.Config{
		DataDir: filepath.Join(root, "data"), Catalog: catalog, Source: "main", History: time.Hour, LogLevel: "info", KafkaTopics: "create",
		PostgresURL: db.URL, KafkaBrokers: k.Brokers, KafkaTopicPrefix: k.Prefix, RedisAddrs: []string{r.Addr}, RedisKeyPrefix: r.Prefix,
	}}, NodeOptions{Worker: true}) // all roles in one process
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	descs := make(chan *prometheus.Desc)
	go func() { n.p.health.Registry().Describe(descs); close(descs) }()
	for d := range descs {
		if m := described.FindStringSubmatch(d.String()); m != nil {
			name := m[1]
			if m[3] != "" {
				name += "{" + m[3] + "}"
			}
			all[name] = m[2]
		}
	}
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Error(err)
	}
	if len(all) < 70 {
		t.Fatalf("%d metrics", len(all))
	}
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range documented.FindAllStringSubmatch(string(page), -1) {
		rows = append(rows, m[1])
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(rows, name) {
			t.Errorf("docs/operating.md lacks\n| `%s` | %s |", name, strings.ReplaceAll(all[name], `\"`, `"`))
		}
	}
	for _, name := range rows {
		if _, ok := all[name]; !ok {
			t.Errorf("docs/operating.md tells of %s, which there is not", name)
		}
	}
}
