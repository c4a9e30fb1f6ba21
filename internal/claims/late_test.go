package claims

// Calls that the network delivers late: the client has given them up, its socket
// has not.

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// late keeps one script's calls back while armed, and delivers them when asked.
type late struct {
	faulty
	kept  [][]any
	twice bool // the client's second copy gets through
}

func (l *late) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); len(a) < 2 || a[1] != l.hash || !l.lose {
			return next(ctx, cmd)
		}
		l.kept = append(l.kept, cmd.Args())
		if l.twice {
			return next(ctx, cmd)
		}
		cmd.SetErr(io.ErrUnexpectedEOF)
		return io.ErrUnexpectedEOF
	}
}

func (l *late) deliver(tb *table) {
	tb.Helper()
	l.lose = false
	if len(l.kept) == 0 {
		tb.Fatal("the test kept no call back")
	}
	for _, args := range l.kept {
		_ = tb.rdb.Do(tb.Context(), args...).Err() // whatever Redis says, nobody reads it
	}
}

func TestClaimThatComesLateTakesNothing(t *testing.T) {
	onEveryForm(t, func(t *testing.T, addr string, script *redis.Script, r Record, _ int64) {
		for name, then := range map[string]func(*table, *late){
			"asked again first": func(tb *table, l *late) {
				g := tb.run(me, r)
				l.deliver(tb)
				if c := tb.get(); c.Run != g.Run || c.Owner != me {
					tb.Fatalf("%+v", c)
				}
				tb.done(me, 0, g.Run)
			},
			"only beats, and its partition moves": func(tb *table, l *late) {
				tb.beat(me)
				l.deliver(tb)
				tb.want(tb.claim(other, r), VerdictRun, Running)
			},
			"only beats, and asks later": func(tb *table, l *late) {
				tb.beat(me)
				l.deliver(tb)
				tb.want(tb.claim(me, r), VerdictRun, Running)
			},
			"comes before it is given up": func(tb *table, l *late) {
				l.deliver(tb)
				tb.want(tb.claim(me, r), VerdictRun, Running)
			},
		} {
			t.Run(name, func(t *testing.T) {
				tb := newTable(t, addr, "late:"+strings.ReplaceAll(name, " ", "-")+":")
				tb.warm()
				l := &late{faulty: faulty{hash: script.Hash(), lose: true}}
				tb.rdb.AddHook(l)
				if _, err := tb.Claim(t.Context(), me, []Record{r}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				l.lose = false
				then(tb, l)
			})
		}
	})
}

func TestSecondCopyOfAClaimDoesNotTakeWhatWasHandedBack(t *testing.T) {
	onEveryForm(t, func(t *testing.T, addr string, script *redis.Script, r Record, _ int64) {
		tb := newTable(t, addr, "copy:")
		tb.warm()
		l := &late{faulty: faulty{hash: script.Hash(), lose: true}, twice: true}
		tb.rdb.AddHook(l)
		g := tb.run(me, r)
		tb.ok(tb.HandBack(t.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		l.deliver(tb)
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictRun, Running)
	})
}

func TestReassertThatComesLateBringsNothingBack(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "back:")
		g := tb.run(me, rec(0, 1, 5))
		held := []Held{{Record: rec(0, 1, 5), Run: g.Run}}
		again := func() ([]bool, error) { return tb.Reassert(t.Context(), me, held, nil) }
		if ok, err := again(); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		l := &late{faulty: faulty{hash: reassertScript.Hash(), lose: true}}
		tb.rdb.AddHook(l)
		if _, err := again(); err == nil {
			t.Fatal("no error")
		}
		l.lose = false
		if ok, err := again(); err != nil || !ok[0] {
			t.Fatal(ok, err)
		}
		tb.beat(me) // what runs is not handed back
		if c := tb.get(); c.State != Running || c.Run != g.Run {
			t.Fatalf("%+v", c)
		}
		tb.ok(tb.HandBack(t.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		l.deliver(tb)
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictRun, Running)
	})
}
