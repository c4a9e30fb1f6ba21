package imports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// end lets an import end at a step, as if its process were gone.
func (r *rig) end(step string, o Order) {
	r.t.Helper()
	r.imp.step = func(s string) {
		if s == step {
			runtime.Goexit()
		}
	}
	defer func() { r.imp.step = nil }()
	over := make(chan error, 1)
	go func() {
		err := errors.New("it reached the step")
		defer func() { over <- err }()
		_, err = r.imp.Run(context.Background(), o)
	}()
	if err := <-over; err == nil || err.Error() != "it reached the step" {
		r.t.Fatalf("ended at %s: %v", step, err)
	}
}

// A real SIGKILL at each step, again and again, until all are sent.
func TestAKilledImportSendsEachLetterOnce(t *testing.T) {
	r := newRig(t)
	const n = 40
	r.letters(0, 0, n/2)
	r.letters(1, n/2, n/2)
	kills, settled := 0, 0
	for i, step := range []string{"claimed", "sent", "marked", "claim", "looked", "sent", "flight"} {
		settle := 20 * time.Millisecond
		if step == "looked" { // of what was under way at the kill before
			r.end("sent", r.order4())
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "IMPORTS_TEST_CHILD="+strings.Join([]string{r.url, r.dlt, step, settle.String(), r.brokers[0]}, " "))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%d, killed at %s: %v %s", i, step, err, out)
		}
		kills++
		if step == "flight" {
			r.imp.cfg.Settle = 2 * time.Second // what the broker may still have in its hands
		}
		rep := r.run(Order{Topic: r.dlt, Who: "ann", Limit: 1})
		settled += int(rep.Settled.Found + rep.Settled.NotSent)
		r.imp.cfg.Settle = 20 * time.Millisecond
	}
	r.run(r.order())
	r.wantOnce(n)
	if r.inState("sent") != n || settled < 10 {
		t.Errorf("%d are marked as sent, want %d; %d were settled", r.inState("sent"), n, settled)
	}
	if found := r.count(`select coalesce(sum((details ->> 'found')::int), 0) from perdure.audit where what = 'import.settle'`); found < 4 {
		t.Errorf("the audit says of %d that they were found", found)
	}
}

func (r *rig) order4() Order {
	r.imp.cfg.Parcel = 4
	return r.order()
}

// child is an import of parcels of 4 that kills its process at a step; "flight" is
// while a parcel is under way.
func child(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	url, topic, step, brokers := args[0], args[1], args[2], args[4]
	settle, err := time.ParseDuration(args[3])
	fail(err)
	db, err := pg.Pool(context.Background(), url)
	fail(err)
	opts := []kgo.Opt{kgo.SeedBrokers(brokers)}
	c, err := foreign.Connect(opts)
	fail(err)
	imp := New(Config{Settle: settle, Parcel: 4}, Deps{DB: db, Cluster: c, ID: "test", Kafka: opts})
	imp.step = func(s string) {
		switch {
		case s == step:
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it comes
		case s == "claimed" && step == "flight":
			go func() {
				time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}()
		}
	}
	_, err = imp.Run(context.Background(), Order{Topic: topic, Who: "child"})
	fail(err)
}

// What was sent stands at its destination, however much came after it; what does
// not stand there goes. Without the search it would go twice, or never.
func TestLettersInDoubtAreFoundOrGo(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 6)
	r.end("sent", r.order())
	for i := range 2000 {
		r.produceLater(i)
	}
	r.flush()
	if rep := r.run(r.order()); rep.Settled != (Settled{Found: 6}) || rep.Before != 6 || rep.Sent != 0 {
		t.Errorf("sent before the end: %+v", rep)
	}
	if n := r.count(`select count(*) from perdure.imported where state = 'sent' and to_offset is not null`); n != 6 {
		t.Errorf("%d of 6 have their place", n)
	}
	r.letters(0, 6, 4)
	r.end("claimed", r.order())
	if rep := r.run(r.order()); rep.Settled != (Settled{NotSent: 4}) || rep.Sent != 4 {
		t.Errorf("not sent before the end: %+v", rep)
	}
	counts := map[string]int{}
	for _, rec := range r.read(r.orders) {
		counts[string(rec.Value)]++
	}
	for i := range 10 {
		if counts[strconv.Itoa(i)] != 1 {
			t.Errorf("letter %d was sent %d times", i, counts[strconv.Itoa(i)])
		}
	}
}

// produceLater is a record of others.
func (r *rig) produceLater(i int) {
	r.cl.Produce(r.t.Context(), &kgo.Record{Topic: r.orders, Partition: int32(i % 3), Value: []byte("of others"),
		Headers: h("perdure_imported", "i-other "+r.dlt+"/0/1")}, nil)
}

func (r *rig) flush() {
	r.t.Helper()
	if err := r.cl.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// A claim that is young may be of a process that still sends.
func TestAYoungClaimIsWaitedFor(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 3)
	r.end("claimed", r.order())
	r.imp.cfg.Settle = 700 * time.Millisecond
	began := time.Now()
	r.run(r.order())
	var age time.Duration
	if err := r.db.QueryRow(t.Context(), `select max(at) - min(at) from perdure.audit`).Scan(&age); err != nil || age < 690*time.Millisecond {
		t.Errorf("settled %s after the claim (%v), of a run of %s", age, err, time.Since(began))
	}
	r.wantOnce(3)
}

// Where what was read is not all that could hold the record, only a person can say.
func TestWhatNobodyCanTellIsLeftToAPerson(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"records deleted": func(r *rig) {
			for p := range int32(3) {
				r.produce(&kgo.Record{Topic: r.orders, Partition: p, Value: []byte("9")})
				r.deleteTo(r.orders, p, 3)
			}
		},
		"topic made anew": func(r *rig) {
			testkit.DeleteTopic(r.t, r.cl, r.orders)
			r.topic(r.orders, 3)
		},
		"topic gone": func(r *rig) { testkit.DeleteTopic(r.t, r.cl, r.orders) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.letters(0, 0, 6)
			r.end("sent", r.order())
			spoil(r)
			again := r.prefix + "again"
			r.topic(again, 1)
			o := r.order()
			o.To = again
			rep := r.run(o)
			if rep.Settled != (Settled{Unknown: 6}) || rep.Sent != 0 || refused(rep)[Unknown] != 6 || len(r.read(again)) != 0 {
				t.Errorf("%+v", rep)
			}
			if rep := r.run(o); rep.Sent != 0 || refused(rep)[Unknown] != 6 {
				t.Errorf("nobody decided: %+v", rep)
			}
			o.Again = true
			if rep := r.run(o); rep.Sent != 6 || len(rep.Refused) != 0 {
				t.Errorf("a person decided: %+v", rep)
			}
			if rep := r.run(o); rep.Sent != 0 || rep.Before != 6 || len(r.read(again)) != 6 {
				t.Errorf("and once is enough: %+v", rep)
			}
		})
	}
}

// Of a compacted topic a record may be gone that was there.
func TestNothingIsProvedByACompactedTopic(t *testing.T) {
	r := newRig(t)
	compacted := r.prefix + "compacted"
	r.topic(compacted, 1, "cleanup.policy", "compact")
	r.letters(0, 0, 3)
	o := r.order()
	o.To = compacted
	r.end("claimed", o)
	if rep := r.run(o); rep.Settled != (Settled{Unknown: 3}) || rep.Sent != 0 {
		t.Errorf("%+v", rep)
	}
}

func TestTwoImportsAtTheSameMoment(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 30)
	r.letters(1, 30, 30)
	var wg sync.WaitGroup
	var sent, busy atomic.Int64
	start := make(chan struct{})
	for range 4 {
		imp, _ := newImporter(t, r.url, r.opts, Config{Parcel: 5, Names: r.imp.cfg.Names})
		wg.Go(func() {
			<-start
			rep, err := imp.Run(t.Context(), r.order())
			if errors.Is(err, ErrBusy) {
				busy.Add(1)
			} else if err != nil {
				t.Error(err)
			}
			sent.Add(rep.Sent)
		})
	}
	close(start)
	wg.Wait()
	if sent.Load() != 60 || busy.Load() == 4 {
		t.Errorf("%d were sent, %d imports found another under way", sent.Load(), busy.Load())
	}
	r.wantOnce(60)
}

// What one has under way another does not take for lost, however old it is.
func TestALivingImportIsLeftAlone(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 10)
	claimed, goOn, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	slow, _ := newImporter(t, r.url, r.opts, r.imp.cfg)
	slow.step = func(s string) {
		if s == "claimed" {
			close(claimed)
			<-goOn
		}
	}
	go func() { _, err := slow.Run(context.Background(), r.order()); over <- err }()
	<-claimed
	r.imp.busy = 150 * time.Millisecond // longer than claims wait here
	if rep, err := r.imp.Run(t.Context(), r.order()); !errors.Is(err, ErrBusy) || rep.Sent != 0 {
		t.Errorf("%+v, %v; want ErrBusy", rep, err)
	}
	if n := r.inState("sending"); n != 10 {
		t.Errorf("%d of 10 are claimed still", n)
	}
	other := r.order()
	other.Topic = r.orders // another topic is another lock
	if rep := r.run(other); rep.Sent != 0 {
		t.Errorf("%+v", rep)
	}
	close(goOn)
	if err := <-over; err != nil {
		t.Error(err)
	}
	r.wantOnce(10)
}

// The lock keeps the order; that each is sent once is the table's own.
func TestALetterIsClaimedOnce(t *testing.T) {
	r := newRig(t)
	const n, rivals = 200, 6
	var wg sync.WaitGroup
	var claimed atomic.Int64
	for w := range rivals {
		wg.Go(func() {
			c, err := pgx.Connect(t.Context(), r.url)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close(context.Background())
			me := &run{Importer: r.imp, o: r.order(), report: &Report{Import: fmt.Sprint("i-", w)}}
			var list []*letter
			for _, i := range rand.Perm(n) { // whatever the order, no two wait for each other
				list = append(list, &letter{place: place{int32(i % 3), int64(i)}, rec: &kgo.Record{}, dest: &dest{name: "orders"}})
			}
			for i := 0; i < n; i += 20 {
				mine, err := session{c}.claim(t.Context(), me, list[i:i+20])
				if err != nil {
					t.Error(err)
				}
				claimed.Add(int64(len(mine)))
			}
		})
	}
	wg.Wait()
	if claimed.Load() != n || r.inState("sending") != n {
		t.Errorf("%d claims of %d letters, %d rows", claimed.Load(), n, r.inState("sending"))
	}
}
