package schemas_test

// The CloudEvents SDK reads what we write, and we read what it writes. Its Kafka
// protocol drags in a client, so the dozen lines of the Kafka binding stand
// here; attributes, their types and the event's rules are the SDK's own.

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"pgregory.net/rapid"

	"github.com/perdure/perdure/schemas"
)

var kafkaBinding = spec.WithPrefix("ce_")

// sdkMessage is a Kafka record as the SDK's binding.Message, binary mode.
type sdkMessage struct {
	headers map[string]string
	value   []byte
}

func (m sdkMessage) ReadEncoding() binding.Encoding { return binding.EncodingBinary }

func (m sdkMessage) ReadStructured(context.Context, binding.StructuredWriter) error {
	return binding.ErrNotStructured
}

func (m sdkMessage) ReadBinary(_ context.Context, w binding.BinaryWriter) error {
	version := kafkaBinding.Version(m.headers[kafkaBinding.PrefixedSpecVersionName()])
	if version == nil {
		return binding.ErrNotBinary
	}
	for name, value := range m.headers {
		var err error
		switch {
		case name == "content-type":
			err = w.SetAttribute(version.AttributeFromKind(spec.DataContentType), value)
		case version.Attribute(name) != nil:
			err = w.SetAttribute(version.Attribute(name), value)
		case strings.HasPrefix(name, "ce_"):
			err = w.SetExtension(name[3:], value)
		}
		if err != nil {
			return err
		}
	}
	return w.SetData(bytes.NewReader(m.value))
}

// GetAttribute and GetExtension implement binding.MessageMetadataReader.
func (m sdkMessage) GetAttribute(kind spec.Kind) (spec.Attribute, any) {
	a := kafkaBinding.Version("1.0").AttributeFromKind(kind)
	if a == nil {
		return nil, nil
	}
	return a, m.headers[a.PrefixedName()]
}

func (m sdkMessage) GetExtension(name string) any { return m.headers["ce_"+name] }

func (m sdkMessage) Finish(error) error { return nil }

// recordWriter makes a record of what the SDK writes.
type recordWriter struct {
	headers []schemas.Header
	value   []byte
}

func (w *recordWriter) Start(context.Context) error { return nil }
func (w *recordWriter) End(context.Context) error   { return nil }

func (w *recordWriter) set(name string, value any) error {
	if value == nil {
		return nil
	}
	s, err := types.Format(value)
	w.headers = append(w.headers, schemas.Header{Key: name, Value: []byte(s)})
	return err
}

func (w *recordWriter) SetAttribute(a spec.Attribute, value any) error {
	if a.Kind() == spec.DataContentType {
		return w.set("content-type", value)
	}
	return w.set("ce_"+a.Name(), value)
}

func (w *recordWriter) SetExtension(name string, value any) error { return w.set("ce_"+name, value) }

func (w *recordWriter) SetData(r io.Reader) (err error) {
	w.value, err = io.ReadAll(r)
	return err
}

func TestCloudEventsSDKReadsOurRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task := anyTask(t)
		if task.DataSchema != "" {
			task.DataSchema = "https://example.com/s.json" // the SDK wants a URI
		}
		m := sdkMessage{map[string]string{}, task.Payload}
		for _, h := range encode(task) {
			m.headers[h.Key] = string(h.Value)
		}
		e, err := binding.ToEvent(context.Background(), m)
		if err != nil {
			t.Fatalf("the SDK cannot read %v: %v", m.headers, err)
		}
		if err := e.Validate(); err != nil {
			t.Fatalf("the SDK finds the event of %v invalid: %v", m.headers, err)
		}
		id, err := schemas.ParseID(e.ID())
		if err != nil || e.ID() != task.ID || e.Source() != "/perdure/"+id.Source || e.Type() != task.Kind {
			t.Errorf("id %s, source %s, type %s", e.ID(), e.Source(), e.Type())
		}
		if !e.Time().Equal(task.Time) || e.DataContentType() != task.ContentType || e.DataSchema() != task.DataSchema || !bytes.Equal(e.Data(), task.Payload) {
			t.Errorf("time %s, content type %s, schema %s", e.Time(), e.DataContentType(), e.DataSchema())
		}
		extensions := e.Extensions()
		if key, _ := extensions["partitionkey"].(string); key != task.Key {
			t.Errorf("partitionkey %q", key)
		}
		if trace, _ := extensions["traceparent"].(string); trace != task.TraceParent {
			t.Errorf("traceparent %q", trace)
		}
		if !task.Deadline.IsZero() {
			expiry, err := types.ToTime(extensions["expirytime"])
			if err != nil || !expiry.Equal(task.Deadline) {
				t.Errorf("expirytime %v, %v", extensions["expirytime"], err)
			}
		}
	})
}

func TestWeReadTheCloudEventsSDKsRecords(t *testing.T) {
	e := event.New()
	e.SetID("main-1-7")
	e.SetSource("/perdure/main")
	e.SetType("mail.send")
	e.SetTime(at.In(time.FixedZone("far", -7*3600)))
	e.SetSubject("of the event")
	e.SetDataSchema("https://example.com/s.json")
	e.SetExtension("partitionkey", "k")
	e.SetExtension("expirytime", at.Add(time.Minute))
	if err := e.SetData("application/json", map[string]int{"n": 1}); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	var w recordWriter
	if err := (*binding.EventMessage)(&e).ReadBinary(context.Background(), &w); err != nil {
		t.Fatal(err)
	}
	if len(w.headers) < 9 {
		t.Fatalf("the SDK wrote only %v", w.headers)
	}
	got, err := schemas.DecodeRecord([]byte("k"), w.value, w.headers)
	if err != nil {
		t.Fatalf("decode %v: %v", w.headers, err)
	}
	if got.ID != "main-1-7" || got.Kind != "mail.send" || got.Key != "k" || !got.Time.Equal(at) || !got.Deadline.Equal(at.Add(time.Minute)) ||
		got.DataSchema != "https://example.com/s.json" || got.Headers["ce_subject"] != "of the event" || string(got.Payload) != `{"n":1}` {
		t.Errorf("got %+v", got)
	}
}
