package dispatcher

import "time"

// WithClock makes the clock of rates and days now.
func (c Config) WithClock(now func() time.Time) Config {
	c.now = now
	return c
}

// WithLineWait changes how long a line of NDJSON waits for its turn.
func (c Config) WithLineWait(d time.Duration) Config {
	c.lineWait = d
	return c
}
