//go:build soak

package relay

// Terms that end at any step of a pass, one after the other, under producers that do all
// that a transaction can do.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestSoakDeathsAtAnyStepOfAPass(t *testing.T) {
	for _, chunk := range []int{2, 7, 60, 2000} {
		t.Run(fmt.Sprint("chunk ", chunk), func(t *testing.T) {
			g := newRig(t)
			l := g.load(8, uint64(chunk), func() string { return g.url })
			rng := rand.New(rand.NewPCG(uint64(chunk), 5))
			killed := errors.New("killed")
			for range 40 {
				r := g.relay("a", func(c *Config) { c.Chunk = chunk; c.LeaseTTL = time.Second })
				where, left := rng.IntN(4), 1+rng.IntN(9)
				die := func(step int) error {
					if step == where {
						if left--; left <= 0 {
							return killed
						}
					}
					return nil
				}
				r.seams.beforeRead = func(context.Context, *term) error { return die(0) }
				r.seams.afterRead = func(context.Context, *term, *window) error { return die(1) }
				r.seams.beforeCursor = func(context.Context, *term, *window) error { return die(2) }
				r.seams.moved = func(context.Context, *term, *window) error { return die(3) }
				run := g.run(r)
				l.reach(l.done.Load() + 50)
				run.cancel()
				if err := run.wait(); err != nil && !errors.Is(err, killed) {
					t.Fatal(err)
				}
			}
			g.run(g.relay("b", func(c *Config) { c.Chunk = chunk }))
			l.end()
			g.settlePrepared(g.prepared())
			g.right()
		})
	}
}
