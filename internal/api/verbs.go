package api

// Verbs: what a token may do; and the principal that a request has.

import (
	"context"
	"slices"
)

// Verb is a permission. A route needs exactly one; a token has some.
type Verb string

// The verbs. Public is for routes that need no token at all.
const (
	Public      Verb = ""
	Enqueue     Verb = "enqueue"      // accept tasks
	ReadMeta    Verb = "read-meta"    // states, timelines, counts; no payloads
	ReadPayload Verb = "read-payload" // payloads, headers and results
	Replay      Verb = "replay"       // plan and run replays, repair
	Kill        Verb = "kill"         // pause, cancel, kill switches
	Report      Verb = "report"       // say how work that a worker handed on goes and ends
)

var verbs = []Verb{Enqueue, ReadMeta, ReadPayload, Replay, Kill, Report}

// Local is the name of the principal where no tokens are configured.
const Local = "local"

type principal struct {
	name   string
	verbs  []Verb
	limits Limits
}

type principalKey struct{}

// Who returns the name of the token that made the request, for the audit and
// as the producer in the scope of keys; Local without tokens or outside a
// request.
func Who(ctx context.Context) string {
	if p, ok := ctx.Value(principalKey{}).(*principal); ok {
		return p.name
	}
	return Local
}

// Can reports whether the request's token has verb, for a route that shows more
// to some than to others. Without tokens everything is allowed.
func Can(ctx context.Context, verb Verb) bool {
	p, ok := ctx.Value(principalKey{}).(*principal)
	return !ok || slices.Contains(p.verbs, verb)
}
