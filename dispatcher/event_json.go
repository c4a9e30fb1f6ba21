package dispatcher

// CloudEvents in the JSON event format 1.0: one, or an element of a batch.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// inText is where an attribute stands in an event's text.
func inText(attribute string) string { return "#/" + attribute }

// decodeEvent reads one event. The payload is a copy of its part of b.
func decodeEvent(b []byte) (client.Task, *api.Problem) {
	if p := checkText(b); p != nil {
		return client.Task{}, p
	}
	d := eventDecoder{seen: map[string]bool{}}
	if p := eachMember(b, d.member); p != nil {
		return client.Task{}, p
	}
	data := d.data()
	if len(d.errs) > 0 {
		return client.Task{}, invalidEvent(d.errs...)
	}
	return event(d.attributes, data, inText)
}

type eventDecoder struct {
	attributes  []schemas.Header // as the Kafka binding writes them
	contentType string
	json        json.RawMessage // data, nil: not given
	base64      json.RawMessage // data_base64, nil: not given
	seen        map[string]bool
	errs        []api.FieldError
}

func (d *eventDecoder) fail(name, detail string) {
	d.errs = append(d.errs, api.FieldError{Pointer: inText(pointerToken(name)), Detail: detail})
}

func (d *eventDecoder) member(name string, value json.RawMessage) {
	if d.seen[name] {
		d.fail(name, "is given twice")
		return
	}
	d.seen[name] = true
	switch {
	case name == "data":
		d.json = value
	case string(value) == "null": // as if it were not there
	case name == "data_base64":
		d.base64 = value
	case !attributeName(name):
		d.fail(name, "is not an attribute: want [a-z0-9]")
	default:
		text, wrong := attributeText(name, value)
		if wrong != "" {
			d.fail(name, wrong)
			return
		}
		if name == "datacontenttype" {
			d.contentType = text
			name = schemas.HeaderContentType
		} else {
			name = schemas.ExtensionHeader(name)
		}
		d.attributes = append(d.attributes, schemas.Header{Key: name, Value: []byte(text)})
	}
}

func attributeName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// attributeText is a value's canonical string. Those that the specification
// names are strings; of the others a boolean and a whole number are allowed too.
func attributeText(name string, value json.RawMessage) (text, wrong string) {
	if value[0] == '"' {
		if json.Unmarshal(value, &text) != nil || halfCharacter(value, text) {
			return "", "is not Unicode text"
		}
		return text, ""
	}
	switch name {
	case "specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema",
		"partitionkey", "expirytime", "traceparent", "tracestate":
		return "", "must be a string"
	}
	var n int32
	if text = string(value); text == "true" || text == "false" || json.Unmarshal(value, &n) == nil {
		return text, ""
	}
	return "", "must be a string, a boolean or a whole number of 32 bits"
}

// halfCharacter reports whether value has half of a surrogate pair, of which
// encoding/json makes U+FFFD: two ids would become one.
func halfCharacter(value json.RawMessage, text string) bool {
	return strings.Contains(text, "\ufffd") && !bytes.Contains(value, []byte("\ufffd")) && !bytes.Contains(bytes.ToLower(value), []byte(`\ufffd`))
}

// data settles which of the two forms was given.
func (d *eventDecoder) data() []byte {
	var text string
	switch {
	case d.json != nil && d.base64 != nil:
		d.fail("data_base64", "cannot stand beside data")
	case d.base64 != nil:
		if json.Unmarshal(d.base64, &text) != nil {
			d.fail("data_base64", "must be a string")
			return nil
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			d.fail("data_base64", "is not base64")
		}
		return b
	case d.json != nil && !schemas.IsJSON(d.contentType):
		if json.Unmarshal(d.json, &text) != nil || d.json[0] != '"' {
			d.fail("data", "must be a string, because datacontenttype is not JSON")
		}
		return []byte(text)
	}
	return bytes.Clone(d.json)
}
