package worker_test

// Who is a member, who is removed, and who must not be.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker"
)

// members are the group's, instance → member id.
func (w *world) members() map[string]string {
	w.Helper()
	groups, err := kadm.NewClient(w.cl).DescribeGroups(w.Context(), w.names.WorkerGroup("jobs"))
	if err != nil {
		w.Fatal(err)
	}
	ids := map[string]string{}
	for _, g := range groups.Sorted() {
		for _, m := range g.Members {
			if m.InstanceID != nil {
				ids[*m.InstanceID] = m.MemberID
			}
		}
	}
	return ids
}

// single is the value of a counter without labels.
func (r *runningWorker) single(t testing.TB, name string) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// opened is a claim store that may read and remove.
func (w *world) opened() *claims.Store {
	w.Helper()
	s := w.store()
	if err := s.Open(w.Context()); err != nil {
		w.Fatal(err)
	}
	return s
}

// peer waits for an instance to tell its member id, and returns what it says.
func (w *world) peer(s *claims.Store, instance string) (found claims.Peer) {
	w.Helper()
	testkit.Eventually(w, wait, func() (bool, string) {
		peers, err := s.Peers(w.Context())
		if err != nil {
			return false, err.Error()
		}
		for _, p := range peers {
			if strings.HasPrefix(p.Process, instance+"/") && !p.Gone && strings.Contains(p.Line, " ") {
				found = p
				return true, ""
			}
		}
		return false, fmt.Sprintf("%s is not among %+v", instance, peers)
	})
	return found
}

func TestAStoppedAndResumedWorkerIsHarmlessAndComesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b := f.hire("a", true), f.hire("b", true)
	stop := f.feeding(50*time.Millisecond, 100)
	a.runs()
	b.runs()
	s := f.opened()
	was := f.peer(s, "a")
	pid := a.cmd.Process.Pid
	f.busy(pid)
	mark := f.ledger.len()
	a.signal(syscall.SIGSTOP)
	stopped := time.Now()
	open := inFlight(f.ledger.since(0), pid)
	t.Logf("everything ran elsewhere %v after the SIGSTOP", f.begunAgain(open, mark, pid).Sub(stopped).Round(time.Millisecond))
	testkit.Eventually(t, wait, func() (bool, string) { // longer than its session
		return time.Since(stopped) > 7*time.Second, "it is stopped"
	})
	mark = f.ledger.len()
	a.signal(syscall.SIGCONT)
	resumed := time.Now()
	testkit.Eventually(t, wait, func() (bool, string) {
		for _, n := range f.ledger.since(mark) {
			if n.PID == pid && n.What == "began" && !n.Refused && !open[n.ID] {
				return true, ""
			}
		}
		return false, "it does not work again"
	})
	t.Logf("it worked again %v after the SIGCONT", time.Since(resumed).Round(time.Millisecond))
	if now := f.peer(s, "a"); now.Process == was.Process {
		t.Errorf("it goes on as %s, which was called dead", now.Process)
	}
	stop()
	f.finish(wait)
}

func TestARedisThatHangsEvictsNobody(t *testing.T) {
	r := testkit.OwnRedis(t)
	if !r.Real {
		t.Skip("miniredis cannot be stopped; PERDURE_TEST_REQUIRE_REAL=1 makes this a failure")
	}
	w := newWorld(t, catalogText, withRedis(r.Addr))
	l := newLedger()
	var all []*runningWorker
	for i := range 3 {
		all = append(all, w.start(fmt.Sprintf("w%d", i), func(c *worker.Config) { c.Silence = worker.DefaultSilence }, ledgered(l)))
	}
	w.sendJobs(50)
	l.doneWithin(t, 50)
	s := w.opened()
	for i := range all {
		w.peer(s, fmt.Sprintf("w%d", i))
	}
	rdb := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer rdb.Close() //nolint:errcheck // the test is over
	var pid int
	for line := range strings.Lines(rdb.Info(t.Context(), "server").Val()) {
		if text, ok := strings.CutPrefix(line, "process_id:"); ok {
			if _, err := fmt.Sscan(text, &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, pause := range []time.Duration{time.Second, 4 * time.Second, 8 * time.Second} { // the last: beats expire
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		testkit.Eventually(t, wait, func() (bool, string) { return time.Since(began) > pause, "Redis is stopped" })
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		_, done, _ := l.count()
		w.sendJobs(50)
		l.doneWithin(t, done+50)
	}
	w.committedAll("jobs")
	for i, a := range all {
		if n, m := a.single(t, "perdure_worker_removals_total"), a.single(t, "perdure_worker_removed_total"); n != 0 || m != 0 {
			t.Errorf("w%d removed %v and was removed %v times", i, n, m)
		}
	}
	if started, done, twice := l.count(); started != 200 || done != 200 || twice != 0 {
		t.Errorf("started %d, done %d, twice %d; want 200, 200, 0", started, done, twice)
	}
}

func TestALateRemovalDoesNotEvictTheRestarted(t *testing.T) {
	f := newFleet(t)
	if !f.kafka.Real {
		t.Skip("kfake takes a LeaveGroup by the instance alone, whatever its member id; PERDURE_TEST_REQUIRE_REAL=1 makes this a failure")
	}
	a := f.hire("a", true)
	stop := f.feeding(50*time.Millisecond, 20)
	a.runs()
	s := f.opened()
	old := f.peer(s, "a")
	a.signal(syscall.SIGKILL)
	<-a.died
	a = f.hire("a", true)
	a.runs()
	f.peer(s, "a")
	before := f.members()["a"]
	if before == "" || strings.Contains(old.Line, before) {
		t.Fatalf("member %q after %q", before, old.Line)
	}
	// The watcher that saw the old one die wakes up only now.
	if ok, err := s.Bury(t.Context(), "late/1", old, time.Second); err != nil || ok {
		t.Errorf("the claims' part: %v %v", ok, err)
	}
	place, _, _ := strings.Cut(old.Line, "\n")
	group, id, _ := strings.Cut(place, " ")
	f.leave(group, "a", id)
	if now := f.members()["a"]; now != before {
		t.Errorf("the restarted worker was evicted: member %q, was %q", now, before)
	}
	// The check sees an eviction: without the member id the instance itself goes.
	f.leave(group, "a", "")
	testkit.Eventually(t, wait, func() (bool, string) {
		return f.members()["a"] != before, "the member id is not what protects it"
	})
	stop()
	f.finish(wait)
}

// leave is LeaveGroup as an administrator sends it.
func (w *world) leave(group, instance, id string) {
	w.Helper()
	m := kmsg.NewLeaveGroupRequestMember()
	m.InstanceID, m.MemberID = &instance, id
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.Members = group, append(req.Members, m)
	if _, err := req.RequestWith(w.Context(), w.cl); err != nil {
		w.Fatal(err)
	}
}

func TestAnotherFinishesARemovalWhoseWatcherDied(t *testing.T) {
	f := newFleet(t)
	f.session = longSession
	a, b := f.hire("a", true), f.hire("b", true)
	stop := f.feeding(50*time.Millisecond, 20)
	a.runs()
	b.runs()
	s := f.opened()
	seen := f.peer(s, "a")
	a.signal(syscall.SIGSTOP) // alive for Kafka for minutes more
	testkit.Eventually(t, wait, func() (bool, string) {
		seen = f.peer(s, "a")
		ok, err := s.Bury(t.Context(), "watcher/that-dies", seen, 50*time.Millisecond)
		return ok, fmt.Sprint(err)
	})
	marked := time.Now()
	testkit.Eventually(t, wait, func() (bool, string) {
		return f.members()["a"] == "", "it is still a member"
	})
	t.Logf("out of its group %v after it was marked", f.inTime(time.Since(marked)).Round(time.Millisecond))
	a.signal(syscall.SIGCONT)
	stop()
	f.finish(wait)
}

func TestANameThatBeatsIsNotTaken(t *testing.T) {
	w := newWorld(t, catalogText)
	a := w.start("same", nil, ledgered(newLedger()))
	w.peer(w.opened(), "same")
	second, _ := w.make("same", nil, ledgered(newLedger()))
	began := time.Now()
	err := second.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "PERDURE_INSTANCE") {
		t.Fatalf("the second ended with %v", err)
	}
	if took := time.Since(began); took < 2900*time.Millisecond {
		t.Errorf("gave up after %v, want 3 s of beats", took)
	}
	if err := a.Ready(t.Context()); err != nil {
		t.Errorf("the first was harmed: %v", err)
	}
}

func TestANameThatNoLongerBeatsIsTakenOver(t *testing.T) {
	f := newFleet(t)
	f.session = longSession
	a := f.hire("a", false) // PERDURE_INSTANCE was given: no lock proves anything
	stop := f.feeding(50*time.Millisecond, 100)
	a.runs()
	pid := a.cmd.Process.Pid
	f.busy(pid)
	mark := f.ledger.len()
	a.signal(syscall.SIGKILL)
	<-a.died
	open := inFlight(f.ledger.since(0), pid)
	began := time.Now()
	f.hire("a", false).runs()
	took := f.inTime(f.begunAgain(open, mark, pid).Sub(began))
	t.Logf("from exec until the last of its predecessor's tasks ran again: %v", took.Round(time.Millisecond))
	stop()
	f.finish(wait)
}

// broken is a claim store with one rule broken.
type broken struct {
	worker.Claims
	change func(recs []claims.Record, grants []claims.Grant)
}

func (b broken) Claim(ctx context.Context, owner string, recs []claims.Record, grants []claims.Grant) ([]claims.Grant, error) {
	had := len(grants)
	out, err := b.Claims.Claim(ctx, owner, recs, grants)
	if err == nil {
		b.change(recs, out[had:])
	}
	return out, err
}

// TestBrokenRulesAreSeenInTheLedger runs workers whose build has a rule broken
// and insists that the checks of a history say so. The mutations:
//
//	who parks a record that may run elsewhere acknowledges it instead  → lost
//	a duplicate runs, under the run that its task has                  → fence
//	tasks of a key are not held behind each other                      → order
func TestBrokenRulesAreSeenInTheLedger(t *testing.T) {
	crewOf := func(f *fleet, name string, c worker.Claims, setup func(*worker.Worker)) (stop func()) {
		wk, err := worker.New(
			worker.Config{Instance: name, Grace: 50 * time.Millisecond, AbandonAfter: 50 * time.Millisecond, CommitInterval: 20 * time.Millisecond},
			worker.Deps{Catalog: f.cat, Names: f.names, Kafka: []kgo.Opt{kgo.SeedBrokers(f.kafka.Brokers...)}, Claims: c})
		if err != nil {
			t.Fatal(err)
		}
		setup(wk)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- wk.Run(ctx) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		f.Cleanup(stop)
		return stop
	}
	duties := func(f *fleet, name string) func(*worker.Worker) {
		return func(wk *worker.Worker) { onDuty(wk, name, f.url) }
	}
	send := func(f *fleet, kind string, d duty, copies int, keyed bool) {
		task := f.task(kind, d)
		task.Key, task.Ordered = d.Key, keyed
		f.sent[task.ID] = d
		for range copies {
			f.send(task)
		}
	}
	saw := func(f *fleet, what string) {
		testkit.Eventually(t, wait, func() (bool, string) {
			got := check(f.sent, f.ledger.since(0)).violations
			for _, v := range got {
				if strings.HasPrefix(v, what) {
					return true, ""
				}
			}
			return false, fmt.Sprintf("no %q among %q", what, got)
		})
	}
	t.Run("lost", func(t *testing.T) {
		f := newFleet(t)
		var acked atomic.Bool
		began, forever := make(chan struct{}), make(chan struct{})
		t.Cleanup(func() { close(forever) })
		stop := crewOf(f, "a", f.store(), func(wk *worker.Worker) {
			deaf := func(context.Context, *worker.Task[duty]) error { close(began); <-forever; return nil }
			worker.Handle(wk, "job.run", deaf)
			worker.Handle(wk, "job.keyed", deaf)
		})
		send(f, "job.run", duty{N: 1}, 1, false)
		<-began
		stop() // leaves it in doubt
		crewOf(f, "b", broken{f.store(), func(_ []claims.Record, grants []claims.Grant) {
			for i := range grants {
				if grants[i].Verdict == claims.VerdictPark {
					grants[i].Verdict = claims.VerdictAck
					acked.Store(true)
				}
			}
		}}, duties(f, "b"))
		testkit.Eventually(t, wait, func() (bool, string) { return acked.Load(), "nothing was parked" })
		f.committedAll("jobs")
		saw(f, "lost")
	})
	t.Run("fence", func(t *testing.T) {
		f := newFleet(t)
		crewOf(f, "a", broken{f.store(), func(recs []claims.Record, grants []claims.Grant) {
			for i := range grants {
				if grants[i].Verdict == claims.VerdictAck && grants[i].Claim.State == claims.Running {
					grants[i] = claims.Grant{Verdict: claims.VerdictRun, Run: grants[i].Claim.Run, Attempt: recs[i].Attempt}
				}
			}
		}}, duties(f, "a"))
		send(f, "job.run", duty{N: 1, MS: 500}, 2, false)
		saw(f, "fence")
	})
	t.Run("order", func(t *testing.T) {
		f := newFleet(t)
		crewOf(f, "a", f.store(), duties(f, "a"))
		for n := range 8 {
			send(f, "job.run", duty{N: n + 1, Key: "k", MS: 400 - 50*n}, 1, false)
		}
		saw(f, "order")
	})
}

// A live worker that only Redis calls dead, by a watcher that never told Kafka,
// leaves its groups itself and joins again.
func TestAWorkerThatIsCalledDeadGoesOnUnderANewName(t *testing.T) {
	w := newWorld(t, catalogText)
	l := newLedger()
	a := w.start("a", nil, ledgered(l))
	w.sendJobs(20)
	l.doneWithin(t, 20)
	s := w.opened()
	was := w.peer(s, "a")
	testkit.Eventually(t, wait, func() (bool, string) {
		p := w.peer(s, "a")
		ok, err := s.Bury(t.Context(), "judge/1", p, 50*time.Millisecond)
		if err != nil && !errors.Is(err, claims.ErrLost) {
			t.Fatal(err)
		}
		return ok, "it has beaten since"
	})
	if err := s.Forget(t.Context(), was.Process); err != nil { // and Kafka is never told
		t.Fatal(err)
	}
	w.sendJobs(20)
	l.doneWithin(t, 40)
	w.committedAll("jobs")
	if now := w.peer(s, "a"); now.Process == was.Process {
		t.Errorf("it still goes by %s", now.Process)
	}
	if n := a.single(t, "perdure_worker_removed_total"); n != 1 {
		t.Errorf("it noticed %v removals, want 1", n)
	}
	if _, done, twice := l.count(); done != 40 || twice != 0 {
		t.Errorf("done %d, twice %d; want 40, 0", done, twice)
	}
}
