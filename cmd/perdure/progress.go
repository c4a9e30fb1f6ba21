package main

// A bar on stderr, on a terminal only.

import (
	"fmt"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/perdure/perdure/dispatcher/enqueuefile"
	"github.com/perdure/perdure/internal/service"
)

// progress shows how much of size bytes is decided (size 0: only counts). Away
// from a terminal it shows nothing. finish leaves the terminal clean.
func (c *cli) progress(size int64) (show func(enqueuefile.Stats), finish func()) {
	if !service.IsTerminal(c.errOut) {
		return nil, func() {}
	}
	var last atomic.Pointer[enqueuefile.Stats] // the bar draws in a goroutine of its own
	last.Store(&enqueuefile.Stats{})
	p := mpb.New(mpb.WithOutput(c.errOut), mpb.WithWidth(40))
	counts := decor.Any(func(decor.Statistics) string {
		s := last.Load()
		return fmt.Sprintf(" %d lines, %.0f/s, %d rejected", s.Lines, s.Rate(), s.Rejected)
	})
	style := mpb.BarStyle()
	var bar *mpb.Bar
	if size > 0 {
		bar = p.New(size, style, mpb.PrependDecorators(decor.Percentage()), mpb.AppendDecorators(counts), mpb.BarRemoveOnComplete())
	} else {
		bar = p.New(0, mpb.SpinnerStyle(), mpb.AppendDecorators(counts), mpb.BarRemoveOnComplete())
	}
	return func(s enqueuefile.Stats) {
			last.Store(&s)
			bar.SetCurrent(min(s.Bytes, max(size-1, 0)))
		}, func() {
			bar.Abort(true)
			p.Wait()
		}
}
