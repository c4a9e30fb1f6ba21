package main

// A bar for what is read from Kafka: on stderr, on a terminal only.

import (
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/perdure/perdure/internal/service"
)

// bar draws done of total with words of what it comes to, until finish, which
// leaves the terminal clean. Both functions are called by the bar's goroutine.
func (c *cli) bar(total int64, done func() int64, words func() string) (finish func()) {
	if !service.IsTerminal(c.errOut) || total <= 0 {
		return func() {}
	}
	p := mpb.New(mpb.WithOutput(c.errOut), mpb.WithWidth(40))
	bar := p.New(total, mpb.BarStyle(), mpb.PrependDecorators(decor.Percentage()),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + words() })), mpb.BarRemoveOnComplete())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(150 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				bar.SetCurrent(min(done(), total-1))
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
		bar.Abort(true)
		p.Wait()
	}
}
