package schemas

// What the catalog says of replays.

import "github.com/goccy/go-yaml/ast"

// DefaultApproveOver is the size from which on a replay needs another person's
// approval where the catalog is silent, in letters.
const DefaultApproveOver = 100_000

// Replays are the rules that every replay is held to.
type Replays struct {
	ApproveOver int // plans with more letters need an approval; default DefaultApproveOver, 0 = none do for their size
	MaxReplays  int // of one task; after so many its letter is held for a person; default DefaultMaxReplays
}

// DefaultMaxReplays is how often a task is replayed before its letter is held.
const DefaultMaxReplays = 5

func (b *builder) replays(o object) {
	b.out.Replays = Replays{ApproveOver: DefaultApproveOver, MaxReplays: DefaultMaxReplays}
	f, ok := o.fields["replays"]
	if !ok {
		return
	}
	r := b.object(f.value, f.at(), "replays", "approve_over", "max_replays")
	b.out.Replays.ApproveOver = r.number("approve_over", DefaultApproveOver, 0, 1_000_000_000)
	b.out.Replays.MaxReplays = r.number("max_replays", DefaultMaxReplays, 1, 1000)
}

// flag returns a field that is true or false.
func (o object) flag(name string) bool {
	e, ok := o.fields[name]
	if !ok {
		return false
	}
	if v, ok := e.value.(*ast.BoolNode); ok {
		return v.Value
	}
	o.wrong(name, "must be true or false")
	return false
}
