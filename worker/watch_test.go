package worker

// The rules by which a worker is called silent, each seen to matter: broken on
// purpose, a scenario ends otherwise.

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// watched is a little fleet under one watcher, in virtual time.
type watched struct {
	v     *watch
	now   time.Time
	beats map[string]int64
	mute  map[string]bool // dead or stopped
	gone  map[string]bool
}

const testStep = 100 * time.Millisecond

func newWatched(peers int) *watched {
	w := &watched{
		v: newWatch(testStep, 600*time.Millisecond), now: time.Unix(1000, 0),
		beats: map[string]int64{}, mute: map[string]bool{}, gone: map[string]bool{},
	}
	for i := range peers {
		w.beats[fmt.Sprintf("w%d/x", i)] = 7
	}
	return w
}

// look passes d, in which every live peer beats, then looks; the answer takes took.
func (w *watched) look(d, took time.Duration) string {
	w.now = w.now.Add(d)
	asked := w.now
	var peers []claims.Peer
	for name := range w.beats {
		if !w.mute[name] {
			w.beats[name]++
		}
		peers = append(peers, claims.Peer{Process: name, Beats: w.beats[name], Gone: w.gone[name]})
	}
	w.now = w.now.Add(took)
	if dead, _ := w.v.look(asked, w.now, peers); dead != nil {
		return dead.Process
	}
	return ""
}

// looks is n steps; it returns whom the first verdict named, and after how many.
func (w *watched) looks(n int) (string, int) {
	for i := range n {
		if dead := w.look(testStep, time.Millisecond); dead != "" {
			return dead, i + 1
		}
	}
	return "", n
}

var silenceScenarios = map[string]func(w *watched) error{
	"the one that is dead is named, after its silence": func(w *watched) error {
		w.looks(5)
		w.mute["w1/x"] = true
		if who, n := w.looks(20); who != "w1/x" || n < 6 || n > 8 {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"who lives is never named": func(w *watched) error {
		if who, n := w.looks(500); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"a watcher that was stopped names nobody who lives": func(w *watched) error {
		w.looks(5)
		// The peers were stopped with it and come back a little later.
		w.mute["w0/x"] = true
		if who := w.look(time.Minute, time.Millisecond); who != "" {
			return fmt.Errorf("%q at once", who)
		}
		if who, n := w.looks(7); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		w.mute["w0/x"] = false
		if who, n := w.looks(50); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"Redis that hung names nobody": func(w *watched) error {
		w.looks(5)
		w.mute["w0/x"] = true
		if who := w.look(testStep, 5*time.Second); who != "" {
			return fmt.Errorf("%q at once", who)
		}
		if who, n := w.looks(8); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"Redis that gave errors names nobody": func(w *watched) error {
		w.looks(5)
		w.mute["w0/x"] = true
		w.looks(4)
		w.now = w.now.Add(testStep)
		w.v.blind(w.now)
		if who, n := w.looks(8); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"several that fall silent together are left alone if they are not the fewer": func(w *watched) error {
		w.looks(5)
		w.mute["w0/x"], w.mute["w2/x"] = true, true
		if who, n := w.looks(100); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"one that died long after another is named": func(w *watched) error {
		w.mute["w0/x"] = true
		if who, _ := w.looks(20); who != "w0/x" {
			return fmt.Errorf("%q", who)
		}
		delete(w.beats, "w0/x") // removed
		w.mute["w2/x"] = true
		if who, _ := w.looks(20); who != "w2/x" {
			return fmt.Errorf("%q", who)
		}
		return nil
	},
	"a removal that was begun is finished first": func(w *watched) error {
		w.gone["w1/x"] = true
		if who, n := w.looks(1); who != "w1/x" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
}

// severalScenarios have six peers: w0 to w5.
var severalScenarios = map[string]func(w *watched) error{
	"the fewer are named one after the other, after three silences": func(w *watched) error {
		w.looks(5)
		w.mute["w1/x"], w.mute["w4/x"], w.mute["w5/x"] = true, true, true
		for left := 3; left > 0; left-- {
			who, n := w.looks(20)
			if !w.mute[who] {
				return fmt.Errorf("%q after %d looks with %d left", who, n, left)
			}
			if left == 3 && (n < 18 || n > 20) {
				return fmt.Errorf("the first after %d looks", n)
			}
			if left < 3 && n > 1 {
				return fmt.Errorf("another only after %d looks more", n)
			}
			delete(w.beats, who) // removed
			delete(w.mute, who)
		}
		if who, _ := w.looks(50); who != "" {
			return fmt.Errorf("%q, who lives", who)
		}
		return nil
	},
	"one that beats again is spared, and so are the others": func(w *watched) error {
		w.looks(5)
		w.mute["w1/x"], w.mute["w4/x"] = true, true
		if who, n := w.looks(15); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		delete(w.mute, "w1/x")
		delete(w.mute, "w4/x")
		if who, n := w.looks(100); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"more than live are left alone": func(w *watched) error {
		w.looks(5)
		for i := range 4 {
			w.mute[fmt.Sprintf("w%d/x", i)] = true
		}
		if who, n := w.looks(100); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
	"a watcher that was away begins anew": func(w *watched) error {
		w.looks(5)
		w.mute["w1/x"], w.mute["w4/x"] = true, true
		w.looks(15)
		w.look(testStep, 5*time.Second) // Redis hung
		if who, n := w.looks(17); who != "" {
			return fmt.Errorf("%q after %d looks", who, n)
		}
		return nil
	},
}

func TestSilence(t *testing.T) {
	for name, scenario := range silenceScenarios {
		t.Run(name, func(t *testing.T) {
			if err := scenario(newWatched(3)); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, scenario := range severalScenarios {
		t.Run(name, func(t *testing.T) {
			if err := scenario(newWatched(6)); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("of two, the one that beats removes the other", func(t *testing.T) {
		w := newWatched(1)
		w.looks(3)
		w.mute["w0/x"] = true
		if who, n := w.looks(10); who != "w0/x" {
			t.Fatalf("%q after %d looks", who, n)
		}
	})
}

func TestEveryRuleOfSilenceMatters(t *testing.T) {
	for name, breakIt := range map[string]func(v *watch){
		"several at once are removed":       func(v *watch) { v.most = 99 },
		"several are dead as soon as one":   func(v *watch) { v.certain = v.silence },
		"several are never dead":            func(v *watch) { v.certain = time.Hour },
		"no patience after being away":      func(v *watch) { v.wary = 0 },
		"silence is one missing beat":       func(v *watch) { v.silence = testStep },
		"silence is never long enough":      func(v *watch) { v.silence = time.Hour },
		"any time between looks is counted": func(v *watch) { v.wary, v.step = 0, time.Hour },
	} {
		caught := false
		for _, scenario := range silenceScenarios {
			w := newWatched(3)
			breakIt(w.v)
			caught = caught || scenario(w) != nil
		}
		for _, scenario := range severalScenarios {
			w := newWatched(6)
			breakIt(w.v)
			caught = caught || scenario(w) != nil
		}
		if !caught {
			t.Errorf("%s: no scenario sees it", name)
		}
	}
}

func TestALargeFleetLooksLessOften(t *testing.T) {
	w := newWatched(3 * watchAll)
	w.looks(1)
	if n := w.v.every(); n != 4 {
		t.Fatalf("a look every %d beats, want 4", n)
	}
	w.mute["w9/x"] = true
	for i := range 12 {
		if who := w.look(4*testStep, time.Millisecond); who != "" {
			if who != "w9/x" || i < 1 {
				t.Fatalf("%q after %d looks", who, i+1)
			}
			return
		}
	}
	t.Fatal("nobody was named")
}

func TestALineNamesEveryGroup(t *testing.T) {
	told := claims.Told{Release: "v1 of ann's & co.=\n", Queues: []string{"a", "b"}}
	got := parseLine("perdure.a m-1\nperdure.b m-2\n" + told.String())
	if len(got) != 2 || got[1] != (member{group: "perdure.b", id: "m-2"}) {
		t.Errorf("%+v", got)
	}
	if back, ok := claims.ReadTold("perdure.a m-1\nperdure.b m-2\n" + told.String()); !ok || !reflect.DeepEqual(back, told) {
		t.Errorf("%+v %v", back, ok)
	}
	if _, ok := claims.ReadTold("perdure.a m-1\n-"); ok {
		t.Error("a worker of an older version told its release")
	}
	for _, line := range []string{"", "-", "-\n", told.String()} {
		if got := parseLine(line); len(got) != 0 {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// Whatever a release is called, a worker tells it as its letters say it: policies compare the two.
func TestAReleaseIsToldAsLettersHaveIt(t *testing.T) {
	for _, release := range []string{"", "v1.5+build 7", "\xff\xfe", strings.Repeat("long ", 100)} {
		w := &Worker{cfg: Config{Release: release}, deps: Deps{Catalog: &schemas.Catalog{}}}
		told, ok := claims.ReadTold(w.line())
		l := dlq.From(&kgo.Record{Topic: "tasks.q", Key: []byte("k")}, "g")
		l.Reason, l.Release = schemas.ReasonPermanent, release
		l, _, err := dlq.Decode(dlq.Encode(l))
		if err != nil {
			t.Fatal(err)
		}
		if !ok || told.Release != l.Release || !utf8.ValidString(told.Release) {
			t.Errorf("%q is told as %q, and %q in letters", release, told.Release, l.Release)
		}
	}
}
