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

	DefaultPolicyHealthy = time.Minute      // of a dependency that a policy waits for
	DefaultNotices       = 60               // an hour
	DefaultNotifyTimeout = 10 * time.Second // of one request
)

// Policy acts on the open letters of the failure groups that it matches.
type Policy struct {
	Name string
	When PolicyMatch
	Wait PolicyWait

	Action  string // replay | discard | hold | notify
	Canary  int    // of replay; letters, 0 = the default
	Success float64
	Rate    float64 // letters a second, 0 = no limit
	Ramp    time.Duration
	Where   string // jq over a letter; "" = all
	Fixer   string // of the catalog's fixers; "" = payloads go as they are

	Notify Notify // of action notify

	PerHour    int // letters an hour; of action notify notices
	Total      int // letters ever, 0 = no limit; of action notify notices
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

	Dependency string        // "" = none; of kinds that call it none had an open breaker, and no task ran out of attempts or was left in doubt ...
	Healthy    time.Duration // ... for so long

	NewRelease bool // a worker of the group's queue runs a release newer than those in which its letters died, and none runs one of these
}

// Notify is who is told of a group.
type Notify struct {
	URL       string
	SecretEnv string        // environment variable with the Standard Webhooks secret; "" = unsigned
	Timeout   time.Duration // of one request
}

// PolicyNames are in the order of their names.
func (c *Catalog) PolicyNames() []string { return keysOf(c.Policies) }

func (b *builder) policy(e entry) {
	path := "policies." + clip(e.name)
	o := b.object(e.value, e.at(), path, "when", "wait_for", "action", "replay", "notify", "limits", "dry_run")
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
	quiet := false
	p.Wait.Quiet = DefaultPolicyQuiet
	if f, ok := o.fields["wait_for"]; ok {
		w := b.object(f.value, f.at(), path+".wait_for", "quiet", "age", "dependency", "healthy", "release")
		_, quiet = w.fields["quiet"]
		p.Wait = PolicyWait{Quiet: w.duration("quiet", DefaultPolicyQuiet), Age: w.duration("age", 0),
			Dependency: w.text("dependency", ""), Healthy: w.duration("healthy", 0)}
		if _, ok := w.fields["release"]; ok {
			p.Wait.NewRelease = w.choice("release", "", "newer") == "newer"
		}
		switch d := p.Wait.Dependency; {
		case d != "" && b.out.Dependencies[d] == nil:
			w.wrong("dependency", "is not declared under dependencies"+didYouMean(d, keysOf(b.out.Dependencies)))
		case d == "" && p.Wait.Healthy > 0:
			w.wrong("healthy", "needs a dependency")
		case d != "" && p.Wait.Healthy == 0:
			p.Wait.Healthy = DefaultPolicyHealthy
		}
	}
	p.Action = o.choice("action", "replay", "replay", "discard", "hold", "notify")
	if p.Action == "notify" && !quiet {
		p.Wait.Quiet = 0 // people are told while it burns
	}
	b.notify(o, p, path+".notify")
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
	if p.Action == "notify" {
		p.PerHour = DefaultNotices
	}
	if f, ok := o.fields["limits"]; ok {
		l := b.object(f.value, f.at(), path+".limits", "per_hour", "total", "max_replays", "strikes")
		p.PerHour = l.number("per_hour", p.PerHour, 1, 100_000_000)
		p.Total = l.number("total", 0, 1, 1_000_000_000)
		p.MaxReplays = l.number("max_replays", 2, 1, 1000)
		p.Strikes = l.number("strikes", DefaultPolicyStrikes, 1, 100)
	}
	p.DryRun = o.flag("dry_run")
}

// notify reads who a policy tells.
func (b *builder) notify(o object, p *Policy, path string) {
	f, ok := o.fields["notify"]
	switch {
	case !ok && p.Action == "notify":
		o.wrong("action", "needs notify: {http: {url: …}}")
		return
	case !ok:
		return
	case p.Action != "notify":
		o.wrong("notify", "is for `action: notify`")
	}
	n := b.object(f.value, f.at(), path, "http")
	h, ok := n.fields["http"]
	if !ok {
		o.wrong("notify", "names nobody: want http: {url: …}")
		return
	}
	web := b.object(h.value, h.at(), path+".http", "url", "secret_env", "timeout")
	p.Notify.URL, p.Notify.SecretEnv = b.target(web, h)
	if p.Notify.Timeout = web.duration("timeout", DefaultNotifyTimeout); p.Notify.Timeout > MaxFixerTimeout {
		web.wrong("timeout", "must be at most "+MaxFixerTimeout.String())
	}
}
