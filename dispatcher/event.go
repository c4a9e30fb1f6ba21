package dispatcher

// CloudEvents as tasks, in the three modes of the HTTP binding 1.0. What an
// attribute means is schemas.DecodeEvent's to say; here it is read from where
// the mode puts it, and what is wrong is said of that place.

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// The media types of the two structured modes. binaryEvent is none: it stands
// for any other, with the attributes in the headers of the request.
const (
	oneEvent    = "application/cloudevents+json"
	eventBatch  = "application/cloudevents-batch+json"
	binaryEvent = "ce-*"
)

// attributeData is what the payload is called in a pointer, whatever the mode.
const attributeData = "data"

// isBinaryEvent reports whether a request means to be an event in binary mode:
// one attribute that every event has is enough, so that a missing one is told.
func isBinaryEvent(h http.Header) bool {
	for _, name := range [...]string{"Ce-Specversion", "Ce-Id", "Ce-Source", "Ce-Type"} {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// event turns attributes and data into a task. at is where an attribute stands,
// as a pointer.
func event(attributes []schemas.Header, data []byte, at func(attribute string) string) (client.Task, *api.Problem) {
	e, err := schemas.DecodeEvent(attributes, data)
	var bad *schemas.DecodeError
	switch {
	case errors.As(err, &bad) && bad.Reason() == schemas.ReasonTooLarge:
		return client.Task{}, api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", "the event's data is too large: see errors",
			api.FieldError{Pointer: at(attributeData), Detail: bad.Detail}).WithNext("store the data elsewhere and send where it is")
	case errors.As(err, &bad):
		return client.Task{}, invalidEvent(api.FieldError{Pointer: placeOfHeader(bad.Field, at), Detail: bad.Detail})
	case err != nil:
		return client.Task{}, invalidEvent(api.FieldError{Pointer: "#", Detail: err.Error()})
	}
	t := client.Task{
		Kind: e.Kind, Key: e.Key, Payload: client.Raw(e.Payload), ContentType: e.ContentType,
		Deadline: e.Deadline, IdempotencyKey: e.IdempotencyKey(), Extensions: e.Extensions,
		// The record has attributes of its own by these names.
		Headers: map[string]string{eventHeader + "id": e.ID, eventHeader + "source": e.Source},
	}
	if !e.Time.IsZero() {
		t.Headers[eventHeader+"time"] = e.Time.Format(time.RFC3339Nano)
	}
	if e.DataSchema != "" {
		t.Headers[eventHeader+"dataschema"] = e.DataSchema
	}
	if e.TraceParent != "" {
		t.Headers["traceparent"] = e.TraceParent
		if state := e.Extensions["tracestate"]; state != "" {
			t.Headers["tracestate"] = state
		}
	}
	return t, nil
}

// eventHeader begins the headers that keep the sender's id, source, time and
// dataschema.
const eventHeader = "event_"

func invalidEvent(errs ...api.FieldError) *api.Problem {
	return api.NewProblem(http.StatusUnprocessableEntity, "invalid-event", "the event is not acceptable: see errors", errs...)
}

// placeOfHeader is where the attribute of a record's header stands in the post.
func placeOfHeader(header string, at func(string) string) string {
	switch header {
	case schemas.HeaderContentType:
		return at("datacontenttype")
	case "value":
		return at(attributeData)
	}
	if name, ok := strings.CutPrefix(strings.TrimPrefix(header, "header "), schemas.ExtensionHeader("")); ok {
		return at(pointerToken(name))
	}
	return "#"
}

// placeOfField is where a task's field stands in an event.
func placeOfField(pointer string, at func(string) string) string {
	field, rest, _ := strings.Cut(strings.TrimPrefix(pointer, "#/"), "/")
	switch field {
	case "kind":
		return at("type")
	case "key":
		return at("partitionkey")
	case "deadline":
		return at("expirytime")
	case "content_type":
		return at("datacontenttype")
	case "idempotency_key":
		return at("id")
	case "payload":
		if rest != "" {
			return at(attributeData) + "/" + rest
		}
		return at(attributeData)
	case "headers", "extensions":
		if rest != "" {
			return at(strings.TrimPrefix(rest, eventHeader))
		}
		return "#"
	}
	return pointer
}

// eventForm is the form of a post of media, one of the three.
func eventForm(media string, h http.Header) form {
	at, decode := inText, decodeEvent
	if media == binaryEvent {
		at, decode = inHeaders, func(body []byte) (client.Task, *api.Problem) { return decodeBinary(h, body) }
	}
	return form{event: true, decode: decode, place: func(pointer string) string { return placeOfField(pointer, at) }}
}
