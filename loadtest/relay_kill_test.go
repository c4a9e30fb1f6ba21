package loadtest

// A relay process that dies exactly between produce and cursor: its records are
// acknowledged, and nobody noted that.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// A lock on the cursor's row holds the active relay at that point, where it is
// killed -9; a standby takes over. What was produced is then on the topic
// twice, runs once, and nothing is missing. Checks I1, I2.
func TestRelayKilledBetweenProduceAndCursor(t *testing.T) {
	t.Parallel()
	const each = 300
	f := newFleet(t, &Ledger{}, patient)
	for _, name := range []string{"dispatcher", "worker", "replayer"} {
		f.start(name, "1")
	}
	relays := map[string]*role{}
	for _, instance := range []string{"a", "b"} {
		relays["relay-"+instance] = f.start("relay", instance)
	}
	db := connect(t, f.DB)
	topic := f.Kafka.Prefix + "tasks.load"

	total, onTopic := 0, 0
	round := func(name string, serverNotices bool) {
		c := holdCursor(t, f.DB)
		enqueueSQL(t, db, total, each)
		waiting := c.awaitRelay(t)
		total, onTopic = total+each, onTopic+each
		if got := len(records(t, f.Kafka.Brokers, topic)); got != onTopic {
			t.Fatalf("%s: %d records on the topic before the kill, want %d: the relay waits at its cursor before it produced all", name, got, onTopic)
		}
		owner := c.owner(t)
		victim := relays[owner]
		if victim == nil {
			t.Fatalf("%s: the lease belongs to %q, none of the two relays", name, owner)
		}
		victim.kill()
		if serverNotices {
			// The database has noticed that its client is gone. It need not:
			// a session that only waits for a lock does not look.
			c.terminate(t, waiting)
			onTopic += each
		}
		c.release(t)
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			s := f.Ledger.Summary()
			n := len(records(t, f.Kafka.Brokers, topic))
			return s.Tasks == total && n == onTopic, fmt.Sprintf("%s: ledger %+v, %d records on the topic; want %d tasks and %d records", name, s, n, total, onTopic)
		})
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			now := ownerOf(t, db)
			return now != owner, "the lease still belongs to the dead " + owner
		})
		relays[owner] = f.start("relay", strings.TrimPrefix(owner, "relay-")) // the next standby
	}
	round("first kill", true)
	round("second kill", true)
	round("third kill, and the dead relay's last statement still commits", false)

	copies := map[string]int{}
	for _, id := range records(t, f.Kafka.Brokers, topic) {
		copies[id]++
	}
	repeats := 0
	for _, n := range copies {
		repeats += n - 1
	}
	if len(copies) != total || repeats != 2*each {
		t.Errorf("%d tasks and %d repeats on the topic, want %d and %d", len(copies), repeats, total, 2*each)
	}
	t.Logf("%d tasks, %d repeats on the topic", len(copies), repeats)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Accepted == int64(total) && b.Completed == int64(total) && b.Lost == 0, fmt.Sprintf("balance: %+v", b)
	})
	want := Summary{Tasks: total, Deliveries: total, Applied: total, Bodies: total}
	if got := f.Ledger.Summary(); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
}

// cursorHold is a session that has the cursor's row locked.
type cursorHold struct {
	conn *pgx.Conn // holds the lock
	look *pgx.Conn // looks on
	tx   pgx.Tx
	pid  uint32
}

func holdCursor(t *testing.T, url string) *cursorHold {
	t.Helper()
	c := &cursorHold{conn: connect(t, url), look: connect(t, url)}
	c.pid = c.conn.PgConn().PID()
	var err error
	if c.tx, err = c.conn.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	tag, err := c.tx.Exec(t.Context(), `select 1 from perdure.relay_cursor for update`)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("lock the cursor: %v rows, %v", tag.RowsAffected(), err)
	}
	return c
}

// awaitRelay waits until a session waits for this one at the cursor's update,
// and gives its pid.
func (c *cursorHold) awaitRelay(t *testing.T) (pid uint32) {
	t.Helper()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		err := c.look.QueryRow(t.Context(), `select pid from pg_stat_activity
where $1::int = any(pg_blocking_pids(pid)) and query like 'update perdure.relay_cursor set prev%'`, c.pid).Scan(&pid)
		return err == nil, fmt.Sprintf("no relay waits for the cursor: %v", err)
	})
	return pid
}

func (c *cursorHold) owner(t *testing.T) string { return ownerOf(t, c.look) }

// terminate ends a session of the database and waits until it is gone.
func (c *cursorHold) terminate(t *testing.T, pid uint32) {
	t.Helper()
	if _, err := c.look.Exec(t.Context(), `select pg_terminate_backend($1::int)`, pid); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		var alive bool
		err := c.look.QueryRow(t.Context(), `select exists (select 1 from pg_stat_activity where pid = $1::int)`, pid).Scan(&alive)
		return err == nil && !alive, fmt.Sprintf("session %d is still there: %v", pid, err)
	})
}

func (c *cursorHold) release(t *testing.T) {
	t.Helper()
	if err := c.tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func ownerOf(t *testing.T, conn *pgx.Conn) (owner string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `select owner from perdure.relay_lease`).Scan(&owner); err != nil {
		t.Fatal(err)
	}
	return owner
}

// enqueueSQL enqueues n tasks in one transaction, so that one pass has them all.
func enqueueSQL(t *testing.T, conn *pgx.Conn, first, n int) {
	t.Helper()
	_, err := conn.Exec(t.Context(), `select perdure.enqueue(kind => 'load.step', payload => jsonb_build_object('row', i))
from generate_series($1::int, $2::int) i`, first, first+n-1)
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// records reads a whole topic and gives each record's task id.
func records(t *testing.T, brokers []string, topic string) (ids []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil || ends.Error() != nil {
		t.Fatalf("ends of %s: %v %v", topic, err, ends.Error())
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "ce_id" {
					ids = append(ids, string(h.Value))
				}
			}
			if end, more := left[r.Partition]; more && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return ids
}
