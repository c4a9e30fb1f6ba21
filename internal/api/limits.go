package api

// What a token file says about how much its tokens may enqueue. This package
// only reads it; the dispatcher keeps it.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/perdure/perdure/schemas"
)

// Limits bound what the tokens of one name may enqueue together. The zero value
// bounds nothing.
type Limits struct {
	Rate    float64 // tasks a second, in each process; 0 = any
	Burst   int     // most tasks at one moment; 0 only where Rate is
	Quota   int64   // tasks a UTC day, in all processes together; 0 = any
	Streams int     // NDJSON posts at once, in each process; 0 only without a token
}

// defaultStreams is for a token that says nothing of streams.
const defaultStreams = 16

// LimitsOf returns the limits of the token that made the request; none without
// tokens.
func LimitsOf(ctx context.Context) Limits {
	if p, ok := ctx.Value(principalKey{}).(*principal); ok {
		return p.limits
	}
	return Limits{}
}

// limitsText is how an entry of the file says them; nil: it does not. Numbers are
// texts, because the decoder would cut 1.5 to 1.
type limitsText struct {
	Rate    *string `yaml:"rate"`
	Burst   *string `yaml:"burst"`
	Quota   *string `yaml:"quota"`
	Streams *string `yaml:"streams"`
}

// badField is what is wrong with one field of an entry.
type badField struct {
	field string
	err   error
}

func (b *badField) Error() string { return b.field + " " + b.err.Error() }

func (t *limitsText) limits(verbs []Verb) (Limits, *badField) {
	if !slices.Contains(verbs, Enqueue) {
		return Limits{}, t.useless()
	}
	l := Limits{Streams: defaultStreams}
	if t.Rate != nil {
		rate, err := schemas.ParseRate(*t.Rate)
		if err != nil {
			return Limits{}, &badField{"rate", err}
		}
		l.Rate, l.Burst = rate, max(1, int(math.Ceil(rate))) // a second's worth
	}
	if t.Burst != nil && t.Rate == nil {
		return Limits{}, &badField{"burst", errors.New("needs a rate: it is how many tasks may come at once within it")}
	}
	for _, n := range []struct {
		field string
		text  *string
		set   func(int64)
	}{
		{"burst", t.Burst, func(n int64) { l.Burst = int(n) }},
		{"quota", t.Quota, func(n int64) { l.Quota = n }},
		{"streams", t.Streams, func(n int64) { l.Streams = int(n) }},
	} {
		if n.text == nil {
			continue
		}
		value, err := strconv.ParseInt(*n.text, 10, 64)
		if err != nil || value < 1 || n.field != "quota" && value > math.MaxInt32 {
			return Limits{}, &badField{n.field, errors.New("must be a whole number, at least 1")}
		}
		n.set(value)
	}
	return l, nil
}

// useless is the first limit of a token that cannot enqueue.
func (t *limitsText) useless() *badField {
	for _, f := range []struct {
		name string
		text *string
	}{{"rate", t.Rate}, {"burst", t.Burst}, {"quota", t.Quota}, {"streams", t.Streams}} {
		if f.text != nil {
			return &badField{f.name, fmt.Errorf("limits enqueueing, but the token lacks the verb %s", Enqueue)}
		}
	}
	return nil
}

// one checks that entries of one name, which share their limits, say the same.
func (t *Tokens) one(who *principal) error {
	if !slices.Contains(who.verbs, Enqueue) {
		return nil
	}
	for _, e := range t.entries {
		if e.who.name == who.name && slices.Contains(e.who.verbs, Enqueue) && e.who.limits != who.limits {
			return errors.New("has other limits than the entry of the same name above: they share one rate and one quota, so give both the same")
		}
	}
	return nil
}

// lineOf is where a field of the i-th entry stands in the file; the entry's own
// line where it has no such field.
func lineOf(file *ast.File, i int, field string) int {
	for _, at := range []string{fmt.Sprintf("$.tokens[%d].%s", i, field), fmt.Sprintf("$.tokens[%d]", i)} {
		path, err := yaml.PathString(at)
		if err != nil {
			continue
		}
		if n, err := path.FilterFile(file); err == nil && n != nil && n.GetToken() != nil {
			return n.GetToken().Position.Line
		}
	}
	return 1
}
