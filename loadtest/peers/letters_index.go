package main

// Letters from Kafka into Postgres: the index, as `perdure replayer` runs it.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/loadtest/run/usage"
	"github.com/perdure/perdure/schemas"
)

// runIndex indexes into an empty database in each run, and once into the large one,
// which keeps them.
func (b *lettersBench) runIndex(ctx context.Context, srv servers) (string, error) {
	var empty []*result
	for r := range 1 + b.runs {
		res, err := b.indexEmpty(ctx, srv)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "index: %6.0f letters/s  %5.1f µs a letter\n", res.rate(), res.cpu())
		if r > 0 {
			empty = append(empty, res)
		}
	}
	var large []*result
	if !b.empty {
		pool, err := b.filled(ctx, srv)
		if err != nil {
			return "", err
		}
		defer pool.Close()
		res, err := b.indexOnce(ctx, srv, pool)
		if err != nil {
			return "", err
		}
		large = append(large, res)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d letters a run, with payloads of %d bytes, the causes of %d groups and an attempt each, in the four topics before the index starts; %d runs into an empty index, each on a new database and new topics.\n\n",
		b.index, b.payload, letterGroups, b.runs)
	s.WriteString("| indexing | letters/s | µs CPU a letter, all | index | postgres | kafka |\n|---|---|---|---|---|---|\n")
	row := func(name string, runs []*result) {
		part := func(of string) string {
			return spreadOf(each(runs, func(r *result) float64 { return r.CPU[of] })).text("%.1f")
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s |\n", name, spreadOf(each(runs, (*result).rate)).text("%.0f"), spreadOf(each(runs, (*result).cpu)).text("%.1f"),
			part(usage.Own), part("postgres"), part("kafka"))
	}
	row("into an empty index", empty)
	if len(large) > 0 {
		row(fmt.Sprintf("into one of %d, one run", b.letters), large)
	}
	return s.String(), nil
}

func (b *lettersBench) indexEmpty(ctx context.Context, srv servers) (res *result, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_dlq", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	return b.indexOnce(ctx, srv, pool)
}

// indexOnce indexes new letters into the database of pool.
func (b *lettersBench) indexOnce(ctx context.Context, srv servers, pool *pgxpool.Pool) (res *result, err error) {
	cat, err := lettersCatalog()
	if err != nil {
		return nil, err
	}
	// A source of its own: letters that are there already are not counted.
	source := "b" + strings.ToLower(rand.Text()[:8])
	names := kafka.Names{Prefix: source + "."}
	cl, err := kgo.NewClient(kgo.SeedBrokers(srv.kafka...))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var topics []string
	for q := range cat.Queues {
		topics = append(topics, names.DLQ(q), names.Events(q))
	}
	made, err := adm.CreateTopics(ctx, 8, 1, nil, topics...)
	if err = errors.Join(err, made.Error()); err != nil {
		return nil, fmt.Errorf("kafka: make topics: %w", err)
	}
	defer func() {
		_, dropped := adm.DeleteTopics(context.WithoutCancel(ctx), topics...)
		err = errors.Join(err, dropped)
	}()
	if err := b.produceLetters(ctx, cl, names, source); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `checkpoint`); err != nil {
		return nil, err
	}
	meter, err := usage.New(srv.targets()[:2]...) // Redis has no part in it
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	x, err := dlq.NewIndex(dlq.Config{Source: source}, dlq.Deps{DB: pool, Kafka: []kgo.Opt{kgo.SeedBrokers(srv.kafka...)}, Names: names, Catalog: cat, Registry: reg})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- x.Run(ctx) }()
	defer func() { cancel(); err = errors.Join(err, <-ran) }()
	// The clock starts with the first batch that is committed: what was before is the
	// consumer group's start.
	first, err := awaitIndexed(ctx, reg, ran, 1)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	before, err := meter.Read()
	if err != nil {
		return nil, err
	}
	if _, err := awaitIndexed(ctx, reg, ran, b.index); err != nil {
		return nil, err
	}
	took := time.Since(start)
	after, err := meter.Read()
	if err != nil {
		return nil, err
	}
	var rows int
	if err := pool.QueryRow(ctx, `select count(*) from perdure.letters where letter like $1`, source+"-%").Scan(&rows); err != nil {
		return nil, err
	}
	if rows != b.index {
		return nil, fmt.Errorf("%d letters were made, and %d are in the index", b.index, rows)
	}
	res = &result{Tasks: b.index - first, Seconds: took.Seconds(), CPU: map[string]float64{}}
	for name, v := range after.Since(before) {
		res.CPU[name] = micros(v) / float64(res.Tasks)
	}
	return res, nil
}

// awaitIndexed waits until n letters are committed, and returns how many are.
func awaitIndexed(ctx context.Context, reg *prometheus.Registry, ran chan error, n int) (int, error) {
	for {
		families, err := reg.Gather()
		if err != nil {
			return 0, err
		}
		have := 0
		for _, f := range families {
			if f.GetName() != "perdure_dlq_indexed_records_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				if m.GetLabel()[0].GetValue() == "letter" {
					have = int(m.GetCounter().GetValue())
				}
			}
		}
		if have >= n {
			return have, nil
		}
		select {
		case err := <-ran:
			ran <- err
			return 0, fmt.Errorf("the index ended: %w", err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(10 * time.Millisecond): // to ask costs a tenth of a millisecond
		}
	}
}

// produceLetters puts a run's letters into their topics.
func (b *lettersBench) produceLetters(ctx context.Context, cl *kgo.Client, names kafka.Names, source string) error {
	payloads := run.NewPayloads(b.payload, run.Random)
	causes := make([]cause, letterGroups)
	for g := range causes {
		var err error
		if causes[g], err = causeOf(g); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var failed error // the first
	for i := range b.index {
		c := &causes[i*i%letterGroups] // some more often than others
		t := &schemas.Task{ID: fmt.Sprintf("%s-1-%d", source, i+1), Kind: c.kind, Key: fmt.Sprintf("customer-%d", i%letterKeys), Time: time.Now(), Run: 5,
			Headers: map[string]string{"x-tenant": "acme"}}
		l := dlq.From(&kgo.Record{Topic: names.Tasks(c.queue), Partition: int32(i % 8), Offset: int64(i), Key: []byte(t.RecordKey()), Value: payloads.Append(nil, i),
			Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t)}, names.WorkerGroup(c.queue))
		l.Reason, l.ErrorClass, l.Message = c.reason, c.class, strings.ReplaceAll(c.message, "NNN", fmt.Sprint(i+1000))
		l.Run, l.Release, l.Catalog, l.DiedAt = 5, "v1", "c0ffee", time.Now()
		l.Attempts = []dlq.Attempt{{N: 1, Run: 5, Start: t.Time, End: l.DiedAt, Worker: "worker-a", ErrorClass: l.ErrorClass, Message: l.Message}}
		r := dlq.Encode(l)
		r.Topic = names.DLQ(c.queue)
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if failed == nil && err != nil {
				failed = fmt.Errorf("kafka: produce a letter: %w", err)
			}
		})
	}
	err := cl.Flush(ctx)
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(err, failed)
}
