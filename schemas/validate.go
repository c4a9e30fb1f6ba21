package schemas

// What is accepted: the checks that every way in makes before a task is stored.

import (
	"bytes"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	kindRule  = "must be 1 to 128 of [A-Za-z0-9._-], with a letter or digit at both ends"
	queueRule = "must be 1 to 60 of [a-z0-9-], with a letter or digit at both ends"
)

// FieldError is one thing that is wrong with a submission: where, as a JSON
// pointer fragment ("#/payload/amount"), and what. It never holds the value.
type FieldError struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Submission is what a producer hands in, before it has an id.
type Submission struct {
	Kind           string
	Payload        []byte
	ContentType    string    // "" is application/json
	Queue          string    // "" is the kind's; any other is refused
	Key            string    // "" = none
	IdempotencyKey string    // "" = none
	UniqueKey      string    // "" = none
	RunAt          time.Time // zero = now
	Deadline       time.Time // zero = none
	Headers        map[string]string
	Extensions     map[string]string // CloudEvents attributes by name, as "subject"
}

// ValidateTask returns everything that is wrong with s, nil if it may be
// accepted. now is the caller's clock; a deadline at or before it has passed.
// maxPayload is in bytes; 0 is MaxPayload, more than that is MaxPayload too.
func ValidateTask(c *Catalog, s *Submission, now time.Time, maxPayload int) []FieldError {
	var errs []FieldError
	add := func(pointer, format string, args ...any) {
		errs = append(errs, FieldError{pointer, fmt.Sprintf(format, args...)})
	}

	var kind *Kind
	if s.Kind == "" {
		add("#/kind", "is missing")
	} else if !ValidKind(s.Kind) {
		add("#/kind", kindRule)
	} else if kind = c.Kind(s.Kind); kind == nil {
		add("#/kind", "is not in the catalog%s", didYouMean(s.Kind, keysOf(c.Kinds)))
	}
	if s.Queue != "" {
		if !ValidQueue(s.Queue) {
			add("#/queue", queueRule)
		} else if c.Queues[s.Queue] == nil {
			add("#/queue", "is not in the catalog%s", didYouMean(s.Queue, keysOf(c.Queues)))
		} else if kind != nil && kind.Queue != s.Queue {
			// No worker of that queue would know the kind.
			add("#/queue", "is not where kind %s runs: name queue %s, or none", kind.Name, kind.Queue)
		}
	}
	for _, f := range [...]struct{ pointer, value string }{
		{"#/key", s.Key}, {"#/idempotency_key", s.IdempotencyKey}, {"#/unique_key", s.UniqueKey},
	} {
		if detail := badText([]byte(f.value), MaxKey); detail != "" {
			add(f.pointer, "%s", detail)
		}
	}
	if !s.Deadline.IsZero() {
		switch {
		case !inYears(s.Deadline):
			add("#/deadline", "must be in the years 1 to 9999")
		case !s.Deadline.After(now):
			add("#/deadline", "is in the past")
		case !s.RunAt.IsZero() && !s.Deadline.After(s.RunAt):
			add("#/deadline", "is not after run_at: the task could never run")
		}
	}
	if !inYears(s.RunAt) && !s.RunAt.IsZero() {
		add("#/run_at", "must be in the years 1 to 9999")
	}
	errs = append(errs, headerErrors(s.Headers)...)
	errs = append(errs, extensionErrors(s)...)
	return append(errs, payloadErrors(kind, s, maxPayload)...)
}

func payloadErrors(kind *Kind, s *Submission, limit int) []FieldError {
	if limit <= 0 || limit > MaxPayload {
		limit = MaxPayload
	}
	switch {
	case len(s.Payload) == 0:
		return []FieldError{{"#/payload", "is missing"}}
	case len(s.Payload) > limit:
		return []FieldError{{"#/payload", fmt.Sprintf("is larger than %d bytes", limit)}}
	case s.ContentType != "" && s.ContentType != JSONContentType && !ValidContentType(s.ContentType):
		return []FieldError{{"#/content_type", "is not a media type such as application/json"}}
	case saysStructured(s.ContentType):
		return []FieldError{{"#/content_type", "says that the payload is itself a CloudEvent, which on a record means another mode: send the event's data, or the event by HTTP"}}
	}
	if kind == nil {
		if IsJSON(s.ContentType) {
			return checkJSON(s.Payload)
		}
		return nil
	}
	return kind.ValidatePayload(s.Payload, s.ContentType)
}

// saysStructured reports whether a content type turns a record into one of the
// binding's structured mode, in which nobody finds its attributes.
func saysStructured(contentType string) bool {
	const begins = "application/cloudevents"
	return len(contentType) >= len(begins) && strings.EqualFold(contentType[:len(begins)], begins)
}

func inYears(t time.Time) bool { y := t.UTC().Year(); return y >= 1 && y <= 9999 }

// ValidKind reports whether s can name a kind: 1 to 128 bytes of
// [A-Za-z0-9._-], with a letter or digit at both ends.
func ValidKind(s string) bool { return validKind(s) }

func validKind[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > MaxKind || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ValidContentType reports whether s is a media type that can be kept and sent
// on: at most 256 bytes of printable ASCII, type and subtype.
func ValidContentType(s string) bool {
	if len(s) > 256 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	media, _, err := mime.ParseMediaType(s)
	return err == nil && strings.Count(media, "/") == 1
}

// IsJSON reports whether a content type is JSON: "", application/json,
// text/json, or anything with the suffix +json; parameters do not matter.
func IsJSON(contentType string) bool {
	if contentType == "" || contentType == JSONContentType {
		return true
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == JSONContentType || media == "text/json" || strings.HasSuffix(media, "+json")
}

// checkJSON says why b is not acceptable JSON, before any parser recurses.
func checkJSON(b []byte) []FieldError {
	switch {
	case bytes.IndexByte(b, 0) >= 0:
		return []FieldError{{"#/payload", "holds a NUL byte"}}
	case !utf8.Valid(b):
		return []FieldError{{"#/payload", "is not UTF-8"}}
	}
	if detail := scanJSON(b); detail != "" {
		return []FieldError{{"#/payload", detail}}
	}
	return nil
}
