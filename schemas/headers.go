package schemas

// Which header names are whose, and what a user's header may be.

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	prefixCloudEvents = "ce_"
	prefixOurs        = "perdure_"
	prefixKafka       = "__"
)

// ownHeader reports whether the codec itself writes name, so that it may not
// come from Task.Headers.
func ownHeader(name string) bool {
	switch {
	case name == HeaderContentType, strings.HasPrefix(name, prefixOurs), strings.HasPrefix(name, prefixKafka):
		return true
	case strings.HasPrefix(name, prefixCloudEvents):
		return attributeOf(name) >= 0
	}
	return false
}

// extension cuts the attribute's name from a ce_ header.
func extension(header string) (string, bool) { return strings.CutPrefix(header, prefixCloudEvents) }

// validExtension reports whether s can name a CloudEvents extension attribute.
// datacontenttype has a header of its own in binary mode.
func validExtension(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64 && s != "data" && s != "datacontenttype"
}

// ValidateHeaders reports the first reason, in the order of names, why headers
// cannot be a task's: too many, too large, a reserved name, not UTF-8, a NUL.
// nil is valid. The error never holds a value.
func ValidateHeaders(headers map[string]string) error {
	if errs := headerErrors(headers); len(errs) > 0 {
		return fmt.Errorf("%s %s", errs[0].Pointer, errs[0].Detail)
	}
	return nil
}

func headerErrors(headers map[string]string) []FieldError {
	if len(headers) == 0 {
		return nil
	}
	if len(headers) > MaxHeaders {
		return []FieldError{{"#/headers", fmt.Sprintf("has more than %d headers", MaxHeaders)}}
	}
	var errs []FieldError
	names := make([]string, 0, len(headers))
	size := 0
	for name, value := range headers {
		names = append(names, name)
		size += len(name) + len(value)
	}
	if size > MaxHeaderBytes {
		errs = append(errs, FieldError{"#/headers", fmt.Sprintf("is larger than %d bytes", MaxHeaderBytes)})
	}
	slices.Sort(names)
	for _, name := range names {
		if detail := badHeaderName(name); detail != "" {
			errs = append(errs, FieldError{"#/headers/" + escapePointer(clip(name)), detail})
		} else if detail := badText([]byte(headers[name]), MaxHeaderBytes); detail != "" {
			errs = append(errs, FieldError{"#/headers/" + escapePointer(clip(name)), detail})
		}
	}
	return errs
}

// extensionErrors says what is wrong with s.Extensions, which share the limits of
// the headers.
func extensionErrors(s *Submission) []FieldError {
	if len(s.Extensions) == 0 {
		return nil
	}
	if len(s.Headers)+len(s.Extensions) > MaxHeaders {
		return []FieldError{{"#/extensions", fmt.Sprintf("are more than %d, headers included", MaxHeaders)}}
	}
	var errs []FieldError
	size := 0
	for name, value := range s.Headers {
		size += len(name) + len(value)
	}
	for name, value := range s.Extensions {
		size += len(name) + len(value)
	}
	if size > MaxHeaderBytes {
		errs = append(errs, FieldError{"#/extensions", fmt.Sprintf("are larger than %d bytes, headers included", MaxHeaderBytes)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Extensions)) {
		at := "#/extensions/" + escapePointer(clip(name))
		switch detail := badText([]byte(s.Extensions[name]), MaxHeaderBytes); {
		case !validExtension(name):
			errs = append(errs, FieldError{at, "is not the name of a CloudEvents attribute: want up to 64 of [a-z0-9]"})
		case attributeOf(ExtensionHeader(name)) >= 0:
			errs = append(errs, FieldError{at, "is one of the task's own attributes"})
		case detail != "":
			errs = append(errs, FieldError{at, detail})
		}
	}
	return errs
}

// ExtensionHeader is the name under which an extension attribute stands among a
// task's headers, as ce_subject.
func ExtensionHeader(name string) string { return prefixCloudEvents + name }

// ExtensionName is the reverse; ok is false for a header that is no extension
// attribute's.
func ExtensionName(header string) (name string, ok bool) {
	name, ok = extension(header)
	return name, ok && validExtension(name) && attributeOf(header) < 0
}

func badHeaderName(name string) string {
	switch {
	case name == "":
		return "has an empty name"
	case len(name) > MaxKind:
		return fmt.Sprintf("has a name longer than %d bytes", MaxKind)
	case !utf8.ValidString(name):
		return "has a name that is not UTF-8"
	case strings.EqualFold(name, HeaderContentType):
		return "is reserved: use content_type"
	}
	for _, prefix := range []string{prefixCloudEvents, prefixOurs, prefixKafka} {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return "is reserved: a header may not begin with ce_, perdure_ or __"
		}
	}
	for i := 0; i < len(name); i++ {
		if name[i] < 0x20 || name[i] == 0x7f {
			return "has a control character in its name"
		}
	}
	return ""
}

// badText says why b cannot be kept as text, "" if it can. Postgres text and
// jsonb hold neither a NUL nor invalid UTF-8.
func badText(b []byte, limit int) string {
	switch {
	case len(b) > limit:
		return fmt.Sprintf("is longer than %d bytes", limit)
	case bytes.IndexByte(b, 0) >= 0:
		return "holds a NUL byte"
	case !utf8.Valid(b):
		return "is not UTF-8"
	}
	return ""
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// clip bounds a name that came from outside before it enters a message.
func clip(name string) string {
	const most = 64
	name = strings.ToValidUTF8(name, "�")
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}
