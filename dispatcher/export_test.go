package dispatcher

import "time"

// WithClock makes the clock of rates and days now.
func (c Config) WithClock(now func() time.Time) Config {
	c.now = now
	return c
}

// WithWaits changes how long a line of NDJSON waits for its turn, and how long a
// client may be idle; 0 leaves it.
func (c Config) WithWaits(line, idle time.Duration) Config {
	c.lineWait, c.streamIdle = line, idle
	return c
}

// WithMaxBodies changes how many bytes of posts there may be at once.
func (c Config) WithMaxBodies(n int64) Config {
	c.maxBodies = n
	return c
}
