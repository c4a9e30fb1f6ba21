package demo

// What the demo says while it runs.

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// teller prints lines with the time since the start, and on a terminal a line
// below them that is always new.
type teller struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	shown bool
	begun time.Time
	last  time.Time // of a status line, away from a terminal
}

func newTeller(w io.Writer, live bool) *teller {
	return &teller{w: w, live: live, begun: time.Now()}
}

// linef prints a line that stays.
func (t *teller) linef(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wipe()
	fmt.Fprintf(t.w, "%5.1fs  %s\n", time.Since(t.begun).Seconds(), fmt.Sprintf(format, args...))
}

// status shows where things stand: at once on a terminal, every other second
// elsewhere.
func (t *teller) status(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if !t.live {
		if time.Since(t.last) >= 2*time.Second {
			t.last = time.Now()
			fmt.Fprintf(t.w, "%5.1fs  %s\n", time.Since(t.begun).Seconds(), text)
		}
		return
	}
	t.wipe()
	fmt.Fprintf(t.w, "%5.1fs  %s", time.Since(t.begun).Seconds(), text)
	t.shown = true
}

func (t *teller) wipe() {
	if t.shown {
		fmt.Fprint(t.w, "\r\x1b[2K")
		t.shown = false
	}
}

// end leaves the terminal with nothing half written.
func (t *teller) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wipe()
}
