package schemas

// Fixers: what repairs payloads of dead letters, by a name that plans and
// policies give.

import (
	"fmt"
	"time"

	"github.com/itchyny/gojq"
)

// How long a repair agent may take for one letter.
const (
	DefaultFixerTimeout = 10 * time.Second
	MaxFixerTimeout     = time.Minute
)

// Fixer is a jq program, or a repair agent that is asked by HTTP.
type Fixer struct {
	Name      string
	JQ        string        // "" = an agent
	URL       string        // of the agent
	SecretEnv string        // with the secret that signs what it is asked; "" = unsigned
	Timeout   time.Duration // of the agent for one letter
}

func (b *builder) fixer(e entry) {
	path := "fixers." + clip(e.name)
	o := b.object(e.value, e.at(), path, "jq", "http")
	f := &Fixer{Name: e.name, JQ: o.jq("jq", "$letter"), Timeout: DefaultFixerTimeout}
	b.out.Fixers[e.name] = f
	h, agent := o.fields["http"]
	if _, jq := o.fields["jq"]; jq == agent {
		b.fail(e.key, path, "has no one way to repair: give jq or http")
		return
	}
	if !agent {
		return
	}
	web := b.object(h.value, h.at(), path+".http", "url", "secret_env", "timeout")
	f.URL, f.SecretEnv = b.target(web, h)
	if f.Timeout = web.duration("timeout", DefaultFixerTimeout); f.Timeout <= 0 || f.Timeout > MaxFixerTimeout {
		web.wrong("timeout", "must be above 0 and at most "+MaxFixerTimeout.String())
	}
}

// maxJQ bounds a program, in bytes: the compiler recurses.
const maxJQ = 10_000

// jq returns a field that is a jq program over a letter; it may use variables. A
// program that cannot run would only be found out when letters died.
func (o object) jq(name string, variables ...string) string {
	src := o.text(name, "")
	if src == "" {
		return ""
	}
	if len(src) > maxJQ {
		o.wrong(name, fmt.Sprintf("is larger than %d bytes", maxJQ))
		return src
	}
	q, err := gojq.Parse(src)
	if err == nil {
		_, err = gojq.Compile(q, gojq.WithVariables(variables)) // no environment, no modules, no input
	}
	if err != nil {
		o.wrong(name, "is no jq program: "+err.Error())
	}
	return src
}
