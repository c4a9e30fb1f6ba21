package dispatcher

// CloudEvents in binary mode: attributes in Ce- headers, the body is the data.

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

const ceHeader = "Ce-"

// inHeaders is where an attribute stands in a request of binary mode.
func inHeaders(attribute string) string {
	switch attribute {
	case attributeData:
		return "#/" + attribute
	case "datacontenttype":
		return "#/header/Content-Type"
	}
	return "#/header/ce-" + attribute
}

// decodeBinary reads one event. The payload is body itself.
func decodeBinary(h http.Header, body []byte) (client.Task, *api.Problem) {
	var attributes []schemas.Header
	var errs []api.FieldError
	for key, values := range h {
		name, is := strings.CutPrefix(key, ceHeader)
		if !is {
			continue
		}
		name = strings.ToLower(name)
		if !attributeName(name) || name == attributeData || name == "datacontenttype" {
			errs = append(errs, api.FieldError{Pointer: "#/header/ce-" + pointerToken(name), Detail: "is not an attribute in binary mode: want [a-z0-9]; the body is the data, and Content-Type is its type"})
		}
		for _, v := range values { // two of a name are for DecodeEvent to refuse
			text, wrong := headerText(v)
			if wrong != "" {
				errs = append(errs, api.FieldError{Pointer: inHeaders(pointerToken(name)), Detail: wrong})
			}
			attributes = append(attributes, schemas.Header{Key: schemas.ExtensionHeader(name), Value: []byte(text)})
		}
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b api.FieldError) int { return strings.Compare(a.Pointer, b.Pointer) })
		return client.Task{}, invalidEvent(errs...)
	}
	slices.SortFunc(attributes, func(a, b schemas.Header) int { return strings.Compare(a.Key, b.Key) }) // the same answer each time
	for _, v := range h["Content-Type"] {
		attributes = append(attributes, schemas.Header{Key: schemas.HeaderContentType, Value: []byte(v)})
	}
	return event(attributes, body, inHeaders)
}

// headerText undoes what a sender does to a value (HTTP binding 3.1.3.2): first
// a quoted string, of older senders, then one round of percent-encoding. A % that
// begins no byte is refused: who sends it does not encode, and its "%41" would
// become another value.
func headerText(v string) (text, wrong string) {
	if strings.HasPrefix(v, `"`) {
		inner, ok := unquote(v)
		if !ok {
			return "", "begins with a quote but is not a quoted string"
		}
		v = inner
	}
	if strings.Contains(v, "%") {
		var b strings.Builder
		for i := 0; i < len(v); i++ {
			if v[i] != '%' {
				b.WriteByte(v[i])
				continue
			}
			if i+2 >= len(v) || unhex(v[i+1]) < 0 || unhex(v[i+2]) < 0 {
				return "", "has a % that is not percent-encoding: write it as %25"
			}
			b.WriteByte(byte(unhex(v[i+1])<<4 | unhex(v[i+2])))
			i += 2
		}
		v = b.String()
	}
	if !utf8.ValidString(v) {
		return "", "is not UTF-8 once it is percent-decoded"
	}
	return v, ""
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
