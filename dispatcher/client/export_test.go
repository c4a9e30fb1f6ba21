package client

import "time"

// SetClock replaces the clock of c.
func SetClock(c *Client, now func() time.Time) { c.now = now }
