package api

// Verbs: what a token may do; and the principal that a request has.

import (
	"context"
	"net"
	"slices"

	"github.com/danielgtaylor/huma/v2"
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

type callerKey struct{}

// Caller returns the address from which the request came, for the audit: behind a
// proxy that is the proxy's, because what a header says of it anybody may write.
// "" outside a request.
func Caller(ctx context.Context) string {
	caller, _ := ctx.Value(callerKey{}).(string)
	return caller
}

// calledFrom notes a request's address for Caller.
func calledFrom(c huma.Context) huma.Context {
	host, _, err := net.SplitHostPort(c.RemoteAddr())
	if err != nil {
		return c
	}
	return huma.WithValue(c, callerKey{}, host)
}

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
