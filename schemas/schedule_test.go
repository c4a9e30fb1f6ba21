package schemas_test

import (
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

// TestScheduleTimes holds the days on which clocks change.
func TestScheduleTimes(t *testing.T) {
	for _, c := range []struct{ name, cron, zone, after, want string }{
		{"the next minute", "* * * * *", "UTC", "2026-03-01T12:00:00Z", "2026-03-01T12:01:00Z"},
		{"never the same minute again", "0 12 * * *", "UTC", "2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z"},
		{"in its zone", "30 4 * * *", "Europe/Berlin", "2026-01-10T00:00:00Z", "2026-01-10T03:30:00Z"},
		{"in summer", "30 4 * * *", "Europe/Berlin", "2026-07-10T00:00:00Z", "2026-07-10T02:30:00Z"},
		{"an hour that is skipped", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"},
		{"an hour that comes twice, once", "30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"an hour that comes twice, every hour", "30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
		{"half an hour that comes twice", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"},
		{"a leap day", "0 0 29 2 *", "UTC", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cat, err := schemas.ParseCatalog("catalog.yaml",
				[]byte("version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q, schedule: {cron: '"+c.cron+"', time_zone: "+c.zone+"}}}\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			after, err := time.Parse(time.RFC3339, c.after)
			if err != nil {
				t.Fatal(err)
			}
			if got := cat.Kind("k").Schedule.Next(after).Format(time.RFC3339); got != c.want {
				t.Errorf("after %s comes %s, want %s", c.after, got, c.want)
			}
		})
	}
}
