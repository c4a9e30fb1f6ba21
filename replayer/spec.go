package replayer

// What a plan says: which letters, how fast, and when to stop.

import (
	"fmt"
	"math"
	"time"

	"github.com/perdure/perdure/internal/api"
)

// Selector says which open letters a replay takes. Fields are joined by and;
// a selector without any must say All. In kind, class and message * is any text.
type Selector struct {
	IDs     []string  `json:"ids,omitempty" maxItems:"10000" doc:"letters (<task id>@<epoch>) or task ids"`
	Group   string    `json:"group,omitempty" doc:"fingerprint of a failure group"`
	Kind    string    `json:"kind,omitempty" doc:"* is any text"`
	Queue   string    `json:"queue,omitempty"`
	Reason  string    `json:"reason,omitempty" enum:"permanent,exhausted,expired,poison,undecodable,schema,unknown_kind,too_large,unknown,blocked"`
	Class   string    `json:"class,omitempty" doc:"of the error; * is any text"`
	Message string    `json:"message,omitempty" doc:"of the error, as it is in the letter; * is any text"`
	Key     string    `json:"key,omitempty"`
	Since   time.Time `json:"since,omitzero" doc:"died at or after"`
	Until   time.Time `json:"until,omitzero" doc:"died before"`
	// MaxReplays leaves out tasks that were replayed as often already.
	MaxReplays int  `json:"max_replays,omitempty" minimum:"0" doc:"leave out tasks that were replayed so often; 0 = take them too"`
	All        bool `json:"all,omitempty" doc:"every open letter"`
}

func (s *Selector) empty() bool {
	return len(s.IDs) == 0 && s.Group == "" && s.Kind == "" && s.Queue == "" && s.Reason == "" && s.Class == "" && s.Message == "" && s.Key == "" &&
		s.Since.IsZero() && s.Until.IsZero() && !s.All
}

// Spec is a plan without its letters: what is hashed with them.
type Spec struct {
	Selector Selector `json:"selector"`
	Where    string   `json:"where,omitempty" maxLength:"10000" doc:"jq over the letter: those for which it gives true are taken"`
	Limit    int      `json:"limit,omitempty" minimum:"0" doc:"at most this many letters, the oldest deaths; 0 = all"`
	Canary   Canary   `json:"canary,omitzero"`
	Rate     float64  `json:"rate,omitempty" minimum:"0" maximum:"1000000" doc:"letters a second; 0 = as fast as it can"`
	Ramp     Duration `json:"ramp,omitempty" doc:"over how long the rate grows, from a tenth; needs a rate"`
	Stop     Stop     `json:"stop,omitzero"`
	Fixer    *Fixer   `json:"fixer,omitempty" doc:"repairs payloads; absent = they go as they are"`
}

// readsPayloads reports whether the planner has a say in what is read of payloads:
// which letters such a program takes, or fails at, tells of them.
func (s *Spec) readsPayloads() bool {
	return s.Where != "" || s.Fixer != nil && (s.Fixer.JQ != "" || len(s.Fixer.Patch) > 0)
}

// Canary is the part that goes first, and must do well before the rest goes.
type Canary struct {
	Letters  int      `json:"letters,omitempty" minimum:"0" maximum:"100000" doc:"how many go first; default 10, none where the plan has no more than that"`
	Success  float64  `json:"success,omitempty" minimum:"0" maximum:"1" doc:"the share of them that must complete; default 0.9"`
	Patience Duration `json:"patience,omitempty" doc:"how long their outcomes may take; default 10m"`
	Off      bool     `json:"off,omitempty" doc:"no canary"`
}

// Stop are the rules by which a replay stops itself.
type Stop struct {
	ErrorRate       float64 `json:"error_rate,omitempty" minimum:"0" maximum:"1" doc:"share of the outcomes that died again; default 0.5"`
	Outcomes        int     `json:"outcomes,omitempty" minimum:"0" doc:"from how many outcomes on the error rate counts; default 20"`
	SameFingerprint int     `json:"same_fingerprint,omitempty" minimum:"0" doc:"so many died again of the cause that they had; 0 = any number"`
	Lag             int     `json:"lag,omitempty" minimum:"0" doc:"so many were replayed and have no outcome yet; 0 = any number"`
	IgnoreBreaker   bool    `json:"ignore_breaker,omitempty" doc:"go on where workers tell that the breaker of a letter's kind is open"`
	Off             bool    `json:"off,omitempty" doc:"no rule"`
}

// Defaults of a Spec.
const (
	DefaultCanary    = 10
	defaultSuccess   = 0.9
	defaultPatience  = 10 * time.Minute
	defaultErrorRate = 0.5
	defaultOutcomes  = 20
)

// complete fills in defaults, and says what is wrong.
func (s *Spec) complete() []api.FieldError {
	var wrong []api.FieldError
	say := func(pointer, format string, args ...any) {
		wrong = append(wrong, api.FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
	if s.Selector.empty() {
		say("#/selector", "give ids, group, kind, queue, reason, class, message, key, since or until; or all: true")
	}
	if s.Limit < 0 {
		say("#/limit", "must not be negative")
	}
	if s.Rate < 0 || s.Rate > 1e6 || math.IsNaN(s.Rate) {
		say("#/rate", "must be from 0 to 1,000,000 letters a second")
	}
	if s.Ramp < 0 || s.Ramp > 0 && s.Rate == 0 {
		say("#/ramp", "needs a rate to grow to")
	}
	wrong = append(wrong, s.Fixer.wrong()...)
	c := &s.Canary
	if c.Letters < 0 || c.Success < 0 || c.Success > 1 || c.Patience < 0 {
		say("#/canary", "letters and patience must not be negative, success must be from 0 to 1")
	}
	if c.Off && c.Letters > 0 {
		say("#/canary", "is off, and has letters")
	}
	if c.Success == 0 {
		c.Success = defaultSuccess
	}
	if c.Patience == 0 {
		c.Patience = Duration(defaultPatience)
	}
	t := &s.Stop
	if t.ErrorRate < 0 || t.ErrorRate > 1 || t.Outcomes < 0 || t.SameFingerprint < 0 || t.Lag < 0 {
		say("#/stop", "numbers must not be negative, error_rate must be at most 1")
	}
	if t.Off && (t.ErrorRate > 0 || t.SameFingerprint > 0 || t.Lag > 0 || t.IgnoreBreaker) {
		say("#/stop", "is off, and has rules")
	}
	if !t.Off && t.ErrorRate == 0 {
		t.ErrorRate = defaultErrorRate
	}
	if t.Outcomes == 0 {
		t.Outcomes = defaultOutcomes
	}
	return wrong
}

// settleCanary decides how large the canary of a plan with so many letters is.
func (s *Spec) settleCanary(letters int64) {
	c := &s.Canary
	if !c.Off && c.Letters == 0 {
		if letters > DefaultCanary {
			c.Letters = DefaultCanary
		} else {
			c.Off = true // it would be the whole plan
		}
	}
}

// Duration is a time.Duration that JSON writes as 1m30s.
type Duration time.Duration

// MarshalText writes it as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("not a duration such as 30s or 5m")
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }
