package claims

// What grants cost in Redis: while they run, and afterwards nothing.

import (
	"fmt"
	"testing"

	"github.com/perdure/perdure/schemas"
)

func many(n, from int) (recs []Record) {
	for i := range n {
		recs = append(recs, Record{TaskID: fmt.Sprintf("main-1-%d", from+i), Attempt: 1, Coord: Coord{"tasks.q", 3, int64(1000 + 2*i)}})
	}
	return recs
}

func (tb *table) entries(chunk int64) int64 {
	tb.Helper()
	n, err := tb.rdb.HLen(tb.Context(), tb.k.chunk("main", 1, chunk)+":runs").Result()
	tb.ok(err)
	return n
}

func TestGrantsOfACallAreOneValueAChunkAndGoWithTheLastOutcome(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "one:")
		recs := many(40, ChunkBits-20)
		grants, err := tb.Claim(t.Context(), me, recs, nil)
		tb.ok(err)
		for i, g := range grants {
			if g.Verdict != VerdictRun || g.Lease == nil || g.Run != firstN(0, 1) || g.Claim.Coord != recs[i].Coord {
				t.Fatalf("%d: %+v", i, g)
			}
			if c, err := tb.Get(t.Context(), recs[i].TaskID); err != nil || c[0].State != Running || c[0].Owner != me || c[0].Coord != recs[i].Coord || c[0].Stale {
				t.Fatalf("%d stands as %+v (%v)", i, c, err)
			}
		}
		if a, b := tb.entries(0), tb.entries(1); a != 1 || b != 1 {
			t.Fatalf("%d and %d values, want one a chunk", a, b)
		}
		keys, err := tb.rdb.Keys(t.Context(), tb.k.prefix+"c:*").Result()
		if err != nil || len(keys) != 0 {
			t.Fatalf("hashes %v (%v)", keys, err)
		}
		// Every way out: done, wait, dead, handed back, cancelled, given up.
		var done []Outcome
		for i := 6; i < len(recs); i++ {
			done = append(done, Outcome{TaskID: recs[i].TaskID, Run: grants[i].Run, Lease: grants[i].Lease})
		}
		results, err := tb.Done(t.Context(), me, done)
		tb.ok(err)
		for i, r := range results {
			if !r.Mine || r.Resolve {
				t.Fatalf("%d: %+v", i, r)
			}
		}
		tb.beat(me)
		if a, b := tb.entries(0), tb.entries(1); a != 1 || b != 0 {
			t.Fatalf("%d and %d values; some of the first chunk's run, none of the second's", a, b)
		}
		hold := func(i int) []Hold {
			return []Hold{{TaskID: recs[i].TaskID, Run: grants[i].Run, Lease: grants[i].Lease}}
		}
		if ok, err := tb.Wait(t.Context(), me, []WaitOutcome{{TaskID: recs[0].TaskID, Run: grants[0].Run, NextAttempt: 2, Lease: grants[0].Lease}}); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		if ok, err := tb.Dead(t.Context(), me, []DeadOutcome{{TaskID: recs[1].TaskID, Attempt: 1, Coord: recs[1].Coord, Run: grants[1].Run, Reason: "permanent", Lease: grants[1].Lease}}); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		tb.ok(tb.HandBack(t.Context(), me, hold(2)))
		if ok, err := tb.Cancelled(t.Context(), me, hold(3)); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		if ok, err := tb.Abandon(t.Context(), me, hold(4)); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		if n := tb.entries(0); n != 1 {
			t.Fatalf("%d values while one task runs", n)
		}
		if c, err := tb.Get(t.Context(), recs[0].TaskID, recs[1].TaskID, recs[2].TaskID, recs[3].TaskID, recs[4].TaskID, recs[5].TaskID); err != nil ||
			c[0].State != Waiting || c[0].Coord != recs[0].Coord || c[1].State != Dead || c[2].State != None || c[2].Run != grants[2].Run ||
			c[3].State != Cancelled || c[4].State != Running || c[4].Owner != "" || c[5].Owner != me {
			t.Fatalf("%+v (%v)", c, err)
		}
		// The last one's outcome without its lease costs the memory, nothing else.
		if d, err := tb.Done(t.Context(), me, []Outcome{{TaskID: recs[5].TaskID, Run: grants[5].Run, Lease: grants[5].Lease}}); err != nil || !d[0].Mine {
			t.Fatal(d, err)
		}
		tb.beat(me)
		if n := tb.entries(0); n != 0 {
			t.Fatalf("%d values of which nothing is left", n)
		}
	})
}

func TestATaskTwiceInACallIsGrantedOnce(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "twice:")
		grants, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 5), rec(0, 1, 6)}, nil)
		tb.ok(err)
		if grants[0].Verdict != VerdictRun || grants[1].Verdict != VerdictAck {
			t.Fatalf("%+v", grants)
		}
		two := rec(0, 2, 7)
		two.TaskID = "main-1-9"
		one := rec(0, 1, 8)
		one.TaskID = two.TaskID
		grants, err = tb.Claim(t.Context(), me, []Record{two, one}, nil)
		tb.ok(err)
		if grants[0].Verdict != VerdictRun || grants[0].Attempt != 2 || grants[1].Verdict != VerdictAck {
			t.Fatalf("in their order: %+v", grants)
		}
	})
}

func TestAKilledOwnersEntriesAreInDoubtOneByOne(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "killed:")
		recs := many(30, 100)
		grants, err := tb.Claim(t.Context(), other, recs, nil)
		tb.ok(err)
		var done []Outcome
		for i := range 10 {
			done = append(done, Outcome{TaskID: recs[i].TaskID, Run: grants[i].Run, Lease: grants[i].Lease})
		}
		if _, err := tb.Done(t.Context(), other, done); err != nil {
			t.Fatal(err)
		}
		tb.silence(other)
		again, err := tb.Claim(t.Context(), me, recs, nil)
		tb.ok(err)
		for i, g := range again {
			switch {
			case i < 10 && g.Verdict != VerdictAck:
				t.Fatalf("%d is done, and gets %+v", i, g)
			case i >= 10 && (g.Verdict != VerdictRun || !g.InDoubt || g.Run != grants[i].Run+1 || g.Claim.Crashes != 1 || g.Claim.Coord != recs[i].Coord):
				t.Fatalf("%d was running, and gets %+v", i, g)
			}
		}
		// The dead one's last word comes late: a success is one, all else is not its to say.
		if ok, err := tb.Wait(t.Context(), other, []WaitOutcome{{TaskID: recs[10].TaskID, Run: grants[10].Run, NextAttempt: 2, Lease: grants[10].Lease}}); err != nil || ok[0] {
			t.Fatal(ok, err)
		}
		d, err := tb.Done(t.Context(), other, []Outcome{{TaskID: recs[11].TaskID, Run: grants[11].Run, Lease: grants[11].Lease}})
		if err != nil || d[0].Mine {
			t.Fatal(d, err)
		}
	})
}

func TestCancelBeforeItsRecordOutlivesItsNeighbours(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "year:")
		if c, err := tb.Cancel(t.Context(), "main-1-7"); err != nil || c.State != Cancelled {
			t.Fatal(c, err)
		}
		recs := many(20, 100)
		grants, err := tb.Claim(t.Context(), me, recs, nil)
		tb.ok(err)
		var done []Outcome
		for i, g := range grants {
			done = append(done, Outcome{TaskID: recs[i].TaskID, Run: g.Run, Lease: g.Lease})
		}
		_, err = tb.Done(t.Context(), me, done)
		tb.ok(err)
		// All that expires of the chunk has expired.
		for _, key := range tb.rdb.Keys(t.Context(), tb.k.prefix+"d:*").Val() {
			if tb.rdb.PTTL(t.Context(), key).Val() > 0 {
				tb.ok(tb.rdb.Del(t.Context(), key).Err())
			}
		}
		g, err := tb.Claim(t.Context(), me, many(1, 7), nil)
		tb.ok(err)
		if g[0].Verdict != VerdictAck {
			t.Fatalf("a cancelled task gets %+v", g[0])
		}
	})
}

func TestValueOfEntriesNamesItsRun(t *testing.T) {
	// to_hash in lua/chunk.lua builds the run that start.go promises.
	if got, want := runParts(schemas.FirstRun(0, 9)+1), "0.9.1"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}

func TestASuccessThatOutlivesAFlushStands(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "flushed:")
		g := tb.run(me, rec(0, 1, 5))
		tb.ok(tb.rdb.FlushAll(t.Context()).Err())
		tb.ok(tb.Open(t.Context()))
		tb.beat(me)
		tb.beat(other)
		tb.ok(tb.rdb.Del(t.Context(), tb.k.hold).Err())
		if _, err := tb.Done(t.Context(), me, []Outcome{{TaskID: id, Run: g.Run, Lease: g.Lease}}); err != nil {
			t.Fatal(err)
		}
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictAck, Done)
	})
}
