package apiclient

import "time"

// WaitsFor makes Follow wait so long for an API that was there, and returns how long it did.
func WaitsFor(d time.Duration) (old time.Duration) {
	old, awayFor = awayFor, d
	return old
}
