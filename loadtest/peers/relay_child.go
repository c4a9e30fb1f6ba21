package main

// The relay's process, and what it is given: rows, and a rate.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/loadtest/run/usage"
)

const relayCatalog = "version: 1\nqueues:\n  q: {partitions: 4, replication: 1}\nkinds:\n  k: {queue: q}\n"

// relayChild is a `perdure relay` under way.
type relayChild struct {
	cmd    *exec.Cmd
	dir    string
	prefix string // of its topics
	ended  chan error
	log    *bytes.Buffer // read only after ended
}

func startRelay(ctx context.Context, binary, url string, srv servers) (*relayChild, error) {
	dir, err := os.MkdirTemp("", "perdure-relay-")
	if err != nil {
		return nil, err
	}
	catalog := filepath.Join(dir, "catalog.yaml")
	if err := os.WriteFile(catalog, []byte(relayCatalog), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &relayChild{dir: dir, prefix: fmt.Sprintf("bench-relay-%d-", time.Now().UnixNano()), ended: make(chan error, 1), log: &bytes.Buffer{}}
	c.cmd = exec.CommandContext(ctx, binary, "relay")
	c.cmd.Env = append(os.Environ(),
		"PERDURE_POSTGRES_URL="+url, "PERDURE_KAFKA_BROKERS="+strings.Join(srv.kafka, ","), "PERDURE_KAFKA_TOPIC_PREFIX="+c.prefix,
		"PERDURE_SOURCE=bench", "PERDURE_CATALOG="+catalog, "PERDURE_DATA_DIR="+dir, "PERDURE_HTTP_ADDR="+addr, "PERDURE_LOG_LEVEL=warn")
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = 30 * time.Second
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() { c.ended <- c.cmd.Wait() }()
	return c, nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// stop ends the relay and removes its topics.
func (c *relayChild) stop(srv servers) error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: then Wait says why
	err := <-c.ended
	if err != nil {
		err = fmt.Errorf("perdure relay: %w\n%s", err, c.log)
	}
	cl, kerr := kgo.NewClient(kgo.SeedBrokers(srv.kafka...))
	if kerr == nil {
		defer cl.Close()
		adm, ctx := kadm.NewClient(cl), context.Background()
		var topics kadm.TopicDetails
		if topics, kerr = adm.ListTopics(ctx); kerr == nil {
			var mine []string
			for _, name := range topics.Names() {
				if strings.HasPrefix(name, c.prefix) {
					mine = append(mine, name)
				}
			}
			_, kerr = adm.DeleteTopics(ctx, mine...)
		}
	}
	return errors.Join(err, kerr, os.RemoveAll(c.dir))
}

// alive says why the process has ended, if it has.
func (c *relayChild) alive() error {
	select {
	case err := <-c.ended:
		c.ended <- err
		return fmt.Errorf("perdure relay ended: %w\n%s", err, c.log)
	default:
		return nil
	}
}

// cpu is the process's CPU time.
func (c *relayChild) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

// peak is the most memory that the process had, in MiB.
func (c *relayChild) peak() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return kib / 1024, err
}

// fill enqueues n tasks, and lets Postgres come to rest.
func fill(ctx context.Context, pool *pgxpool.Pool, n int, payloads *run.Payloads) error {
	c, err := client.New(ctx, pool)
	if err != nil {
		return err
	}
	p := peer{batch: 1000, senders: 2, insert: enqueueMany(c, payloads)}
	if err := p.send(ctx, 0, n); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `vacuum analyze perdure.outbox`)
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `checkpoint`)
	return err
}

// awaitRelayed waits until n tasks or more stand in the relay's log, and says how
// many do.
func awaitRelayed(ctx context.Context, pool *pgxpool.Pool, child *relayChild, n int) (int, error) {
	last, moved := -1, time.Now()
	for {
		var have int
		if err := pool.QueryRow(ctx, `select coalesce(sum(tasks), 0) from perdure.relay_log`).Scan(&have); err != nil {
			return 0, err
		}
		if have >= n {
			return have, nil
		}
		if have != last {
			last, moved = have, time.Now()
		}
		if err := child.alive(); err != nil {
			return 0, err
		}
		if time.Since(moved) > patience {
			return 0, fmt.Errorf("given up: %d of %d rows are relayed", have, n)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// atRate commits tasks one by one when they are due, and notes for each how long
// after its commit its record was polled.
func (b *relayBench) atRate(ctx context.Context, pool *pgxpool.Pool, child *relayChild, meter *usage.Meter, srv servers, payloads *run.Payloads, res *relayed) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(srv.kafka...), kgo.ConsumeTopics(child.prefix+"tasks.q"), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	if err != nil {
		return err
	}
	defer cl.Close()
	c, err := client.New(ctx, pool)
	if err != nil {
		return err
	}
	warm := max(1, b.rate/2) // until the consumer reads and connections are there
	n := warm + int(float64(b.rate)*b.steady.Seconds())
	committed := make([]atomic.Int64, n) // ns after start, once it is
	polled := make([]int64, n)
	start := time.Now()
	var before usage.Use
	var own time.Duration
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() error { return b.poll(ectx, cl, warm, polled, start) })
	var next atomic.Int64
	for range 8 {
		eg.Go(func() error {
			for {
				i := int(next.Add(1) - 1)
				if i >= n {
					return nil
				}
				due := time.Second + time.Duration(float64(i)/float64(b.rate)*1e9)
				if err := pause(ectx, time.Until(start.Add(due))); err != nil {
					return err
				}
				if i == warm { // reading takes this sender a moment; the others go on
					var err error
					if before, err = meter.Read(); err != nil {
						return err
					}
					if own, err = child.cpu(); err != nil {
						return err
					}
				}
				if _, err := c.Enqueue(ectx, client.Task{Kind: "k", Payload: client.Raw(payloads.Append(nil, i))}); err != nil {
					return err
				}
				committed[i].Store(int64(time.Since(start)))
			}
		})
	}
	if err := eg.Wait(); err != nil {
		return errors.Join(err, child.alive())
	}
	after, err := meter.Read()
	if err != nil {
		return err
	}
	ownAfter, err := child.cpu()
	if err != nil {
		return err
	}
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / b.steady.Seconds() }
	used := after.Since(before)
	// The relay is our child, so it is in our own tree.
	res.steady, res.steadyPostgres, res.steadyRelay = percent(used.Total()), percent(used["postgres"]), percent(ownAfter-own)
	var waits []float64
	for i := warm; i < n; i++ {
		// The record may be here before the producer hears of its commit.
		waits = append(waits, max(0, float64(polled[i]-committed[i].Load())/1e6))
	}
	res.p50, res.p99, res.max = quantile(waits, 0.5), quantile(waits, 0.99), quantile(waits, 1)
	return nil
}

// poll reads until every task from warm on is here, and notes when.
func (b *relayBench) poll(ctx context.Context, cl *kgo.Client, warm int, polled []int64, start time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, b.steady+patience)
	defer cancel()
	for missing := len(polled) - warm; missing > 0; {
		f := cl.PollFetches(ctx)
		now := int64(time.Since(start))
		if err := f.Err0(); err != nil {
			return fmt.Errorf("%d records did not come: %w", missing, err)
		}
		var bad error
		f.EachRecord(func(r *kgo.Record) {
			i, err := strconv.Atoi(payloadNumber(r.Value))
			switch {
			case err != nil || i >= len(polled):
				bad = fmt.Errorf("a record that nobody sent: %.40s", r.Value)
			case polled[i] != 0:
				bad = fmt.Errorf("task %d came twice", i)
			default:
				polled[i] = now
				if i >= warm {
					missing--
				}
			}
		})
		if bad != nil {
			return bad
		}
	}
	return nil
}
