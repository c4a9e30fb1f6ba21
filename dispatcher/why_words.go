package dispatcher

// How the sentence tells times, and what stands in a command.

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/perdure/perdure/schemas"
)

// at tells a time both ways: 02:14:05 UTC (3m12s ago). Another day's has its date.
func (a *asking) at(t time.Time) string {
	t = t.UTC()
	format := "15:04:05"
	if t.Format(time.DateOnly) != a.now.UTC().Format(time.DateOnly) {
		format = time.DateTime
	}
	rel := "in " + span(t.Sub(a.now))
	if !t.After(a.now) {
		rel = span(a.now.Sub(t)) + " ago"
	}
	return t.Format(format) + " UTC (" + rel + ")"
}

// span tells a duration as people do: 0.3s, 3m12s, 5h12m, 3 days.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d.Round(time.Second) < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// maxTold bounds an error's text in the sentence, in runes.
const maxTold = 200

// failure tells a class and a message in one line.
func failure(class, message string) string {
	text := strings.TrimRight(strings.Join(strings.Fields(message), " "), ".")
	if r := []rune(text); len(r) > maxTold {
		text = string(r[:maxTold-1]) + "…"
	}
	switch {
	case text == "":
		return class
	case class == "" || strings.HasPrefix(text, class):
		return text
	}
	return class + ": " + text
}

// process is the part of a claim's owner that people know: the instance.
func processOf(owner string) string {
	name, _, _ := strings.Cut(owner, "/")
	return name
}

// startWorkers is what runs a queue: perdure worker takes queues of which every
// kind has an executor.
func (a *asking) startWorkers() (command, hint string) {
	queue := a.v.Queue
	for _, k := range a.deps.Catalog.Kinds {
		if k.Queue == queue && k.HTTP == nil {
			return "perdure queues ls", ": start the worker of yours that has the handlers of " + k.Name
		}
	}
	return "perdure worker", ""
}

// breakerName is what a kind's breaker is called: its dependency, else its
// endpoint without what may be secret in it.
func breakerName(k *schemas.Kind) string {
	switch {
	case k == nil:
		return "its kind"
	case k.Dependency != "":
		return k.Dependency
	case k.HTTP != nil:
		if u, err := url.Parse(k.HTTP.URL); err == nil {
			return u.Host + u.Path
		}
	}
	return k.Name
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// atLeast is a count that ends at countUpTo.
func atLeast(n int64) string {
	if n >= countUpTo {
		return fmt.Sprintf("at least %d", n)
	}
	return fmt.Sprint(n)
}
