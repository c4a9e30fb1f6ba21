package schemas

// Policies: what is done about dead letters without a person.

import (
	"strings"
	"time"
)

// Defaults of a policy.
const (
	DefaultPolicyQuiet   = time.Minute
	DefaultPolicyPerHour = 10_000
	DefaultPolicyStrikes = 2
)

// Policy acts on the open letters of the failure groups that it matches.
type Policy struct {
	Name string
	When PolicyMatch
	Wait PolicyWait

	Action  string // replay | discard | hold
	Canary  int    // of replay; letters, 0 = the default
	Success float64
	Rate    float64 // letters a second, 0 = no limit
	Ramp    time.Duration
	Where   string // jq over a letter; "" = all
	Fixer   string // of the catalog's fixers; "" = payloads go as they are

	PerHour    int // letters an hour
	Total      int // letters ever, 0 = no limit
	MaxReplays int // of one task: letters of tasks that were replayed as often are left alone
	Strikes    int // so many acts in a row that made nothing better switch it off

	DryRun bool // only says what it would do
}

// PolicyMatch chooses groups. Fields are joined by and; * stands for any text.
type PolicyMatch struct {
	Kind, Class, Reason, Message string
}

// PolicyWait is what must hold before a policy acts.
type PolicyWait struct {
	Quiet time.Duration // no letter of the group died for so long
	Age   time.Duration // the group's oldest open letter is so old; 0 = any
}

// PolicyNames are in the order of their names.
func (c *Catalog) PolicyNames() []string { return keysOf(c.Policies) }

func (b *builder) policy(e entry) {
	path := "policies." + clip(e.name)
	o := b.object(e.value, e.at(), path, "when", "wait_for", "action", "replay", "limits", "dry_run")
	p := &Policy{Name: e.name}
	b.out.Policies[e.name] = p
	if f, ok := o.fields["when"]; ok {
		w := b.object(f.value, f.at(), path+".when", "kind", "class", "reason", "message")
		p.When = PolicyMatch{w.text("kind", ""), w.text("class", ""), w.text("reason", ""), w.text("message", "")}
		if k := p.When.Kind; k != "" && !strings.Contains(k, "*") && b.out.Kinds[k] == nil {
			w.wrong("kind", "is not declared under kinds"+didYouMean(k, keysOf(b.out.Kinds)))
		}
		switch Reason(p.When.Reason) {
		case "", ReasonPermanent, ReasonExhausted, ReasonExpired, ReasonPoison, ReasonUndecodable, ReasonSchema, ReasonUnknownKind, ReasonTooLarge:
		case ReasonUnknown:
			w.wrong("reason", "unknown letters are for the kind's reconcile hook or a person")
		default:
			w.wrong("reason", "is no reason of a dead letter")
		}
	}
	if p.When == (PolicyMatch{}) {
		b.fail(e.key, join(path, "when"), "chooses nothing in particular: give kind, class, reason or message")
	}
	p.Wait.Quiet = DefaultPolicyQuiet
	if f, ok := o.fields["wait_for"]; ok {
		w := b.object(f.value, f.at(), path+".wait_for", "quiet", "age")
		p.Wait = PolicyWait{w.duration("quiet", DefaultPolicyQuiet), w.duration("age", 0)}
	}
	p.Action = o.choice("action", "replay", "replay", "discard", "hold")
	p.Canary, p.Success = 0, 0.9
	if f, ok := o.fields["replay"]; ok {
		if p.Action != "replay" {
			o.wrong("replay", "is for `action: replay`")
		}
		r := b.object(f.value, f.at(), path+".replay", "canary", "success", "rate", "ramp", "where", "fixer")
		p.Canary = r.number("canary", 0, 1, 100_000)
		p.Success = float64(r.number("success", 90, 1, 100)) / 100
		p.Rate = float64(r.number("rate", 0, 1, 1_000_000))
		p.Ramp = r.duration("ramp", 0)
		p.Where = r.jq("where")
		if p.Fixer = r.text("fixer", ""); p.Fixer != "" && b.out.Fixers[p.Fixer] == nil {
			r.wrong("fixer", "is not declared under fixers"+didYouMean(p.Fixer, keysOf(b.out.Fixers)))
		}
		if p.Ramp > 0 && p.Rate == 0 {
			r.wrong("ramp", "needs a rate to grow to")
		}
	}
	p.PerHour, p.MaxReplays, p.Strikes = DefaultPolicyPerHour, 2, DefaultPolicyStrikes
	if f, ok := o.fields["limits"]; ok {
		l := b.object(f.value, f.at(), path+".limits", "per_hour", "total", "max_replays", "strikes")
		p.PerHour = l.number("per_hour", DefaultPolicyPerHour, 1, 100_000_000)
		p.Total = l.number("total", 0, 1, 1_000_000_000)
		p.MaxReplays = l.number("max_replays", 2, 1, 1000)
		p.Strikes = l.number("strikes", DefaultPolicyStrikes, 1, 100)
	}
	p.DryRun = o.flag("dry_run")
}
