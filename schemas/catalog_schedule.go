package schemas

// When a kind's tasks are filed by the clock.

import (
	"encoding/json"
	"strings"
	"time"
	_ "time/tzdata" // a machine without zones reads the same catalog

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/netresearch/go-cron"
)

// Schedule files one task of its kind at every time that Cron names. When clocks
// are set ahead, what was due in the skipped hour is due by so much later; when
// they are set back, what is due in the hour that comes twice is due in the first
// of them, unless Cron's hour is a star: every hour is also that one.
type Schedule struct {
	Cron     string          // minute, hour, day of month, month, day of week; or @hourly and its like
	TimeZone string          // of the IANA database; default UTC
	Source   string          // the one source whose relay files the tasks; "" = each that has this catalog
	Payload  json.RawMessage // default {}

	times     cron.Schedule
	zone      *time.Location
	everyHour bool
}

// Next is the first time after t, the zero time where there is none.
func (s *Schedule) Next(t time.Time) time.Time {
	next := s.times.Next(t.In(s.zone))
	for !next.IsZero() && !s.everyHour && again(next) {
		next = s.times.Next(next)
	}
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

// again reports whether the clocks of t's zone showed the same a while ago.
func again(t time.Time) bool {
	const longest = 3 * time.Hour // that a zone was ever set back by in this century
	_, before := t.Add(-longest).Zone()
	_, now := t.Zone()
	_, earlier := t.Add(-time.Duration(before-now) * time.Second).Zone()
	return before > now && earlier == before
}

// Spec tells whether two schedules have the same times.
func (s *Schedule) Spec() string { return s.Cron + " " + s.TimeZone }

// cronFields are those of crontab(5): a minute is the finest.
var cronFields = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// schedule is read after the schema, which its payload must match.
func (b *builder) schedule(kind object, k *Kind) {
	f, ok := kind.fields["schedule"]
	if !ok {
		return
	}
	if _, ok := f.value.(ast.MapNode); !ok {
		kind.wrong("schedule", "must be a mapping: cron, time_zone, source, payload")
		return
	}
	o := b.object(f.value, f.at(), kind.path+".schedule", "cron", "time_zone", "source", "payload")
	s := &Schedule{Cron: o.text("cron", ""), TimeZone: o.text("time_zone", "UTC"), Source: o.text("source", "")}
	if _, ok := o.fields["cron"]; !ok {
		kind.wrong("schedule", "has no cron: write five fields, such as \"30 4 * * *\"")
		return
	}
	if s.Source != "" && !ValidSource(s.Source) {
		o.wrong("source", "is not the name of a source (PERDURE_SOURCE)")
	}
	var err error
	if s.zone, err = time.LoadLocation(s.TimeZone); err != nil || s.TimeZone == "Local" {
		o.wrong("time_zone", "is not a time zone of the IANA database, such as Europe/Berlin")
		return
	}
	if detail := s.parse(); detail != "" && s.Cron != "" {
		o.wrong("cron", detail)
		return
	}
	b.scheduledPayload(o, k, s)
	k.Schedule = s
}

// parse reads Cron and says what is wrong with it.
func (s *Schedule) parse() string {
	switch spec := strings.ToUpper(s.Cron); {
	case strings.HasPrefix(spec, "@EVERY"):
		return "@every has no place to begin after a restart: use fields, such as */5 * * * *"
	case strings.Contains(spec, "TZ="):
		return "names a time zone: that is time_zone's"
	}
	var err error
	if s.times, err = cronFields.Parse(s.Cron); err != nil {
		return "is not five fields of cron, such as 30 4 * * *: " + clip(err.Error())
	}
	fields := strings.Fields(s.Cron)
	s.everyHour = len(fields) == 5 && strings.HasPrefix(fields[1], "*") || strings.EqualFold(s.Cron, "@hourly")
	if s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return "names a time that never comes"
	}
	return ""
}

func (b *builder) scheduledPayload(o object, k *Kind, s *Schedule) {
	s.Payload = json.RawMessage("{}")
	if f, ok := o.fields["payload"]; ok {
		var value any
		if f.value != nil {
			if _, null := f.value.(*ast.NullNode); !null {
				if err := yaml.NodeToValue(f.value, &value); err != nil {
					o.wrong("payload", "cannot be written as JSON (anchors and aliases cannot stand in it)")
					return
				}
			}
		}
		text, err := json.Marshal(value)
		if err != nil {
			o.wrong("payload", "cannot be written as JSON: "+clip(err.Error()))
			return
		}
		s.Payload = text
	}
	if len(s.Payload) > MaxPayload {
		o.wrong("payload", "is larger than a task's may be")
	}
	for _, e := range k.ValidatePayload(s.Payload, JSONContentType) {
		o.wrong("payload", strings.TrimPrefix(e.Pointer, "#/payload")+" "+e.Detail)
	}
}
