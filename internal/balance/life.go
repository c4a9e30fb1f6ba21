package balance

// Which life of Redis this is, and since when: what a life before knew is gone.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// life is since when Redis remembers.
type life struct {
	began  time.Time // what was relayed earlier may be forgotten
	forgot bool      // Redis holds nothing now though it did
}

// skew is added to when a life began: the record that says so has another
// host's clock than the relay log.
const skew = 5 * time.Second

// openLife finds out since when Redis remembers: the record that raised its
// incarnation on perdure.control, or the horizon. If it was lost and nobody has
// opened it since, it remembers nothing.
func (c *computation) openLife(ctx context.Context) error {
	raised, last, err := c.raised(ctx)
	if err != nil {
		return err
	}
	n, err := c.Claims.Present(ctx)
	if err != nil {
		return err
	}
	c.life.began = time.Now().Add(-c.Horizon)
	switch at, ok := raised[n]; {
	case last > 0 && n < last, n == 0 && last > 0:
		c.life.began, c.life.forgot = time.Now().Add(skew), true
	case n > 1 && ok: // the first incarnation follows nothing that could be forgotten
		if at = at.Add(skew); at.After(c.life.began) {
			c.life.began = at
		}
	}
	c.report.Forgot = c.life.forgot
	return nil
}

// raised reads when each incarnation was raised, and the highest.
func (c *computation) raised(ctx context.Context) (at map[int64]time.Time, last int64, err error) {
	at = map[int64]time.Time{}
	err = c.consume(ctx, map[string]from{c.Names.Control(): {}}, func(r *kgo.Record) bool {
		if name, _, _ := strings.Cut(string(r.Key), "/"); name != "incarnation" {
			return true
		}
		var v struct {
			N int64 `json:"n"`
		}
		if json.Unmarshal(r.Value, &v) == nil && v.N > 0 {
			if _, ok := at[v.N]; !ok {
				at[v.N] = r.Timestamp
			}
			last = max(last, v.N)
		}
		return true
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", c.Names.Control(), err)
	}
	return at, last, nil
}
