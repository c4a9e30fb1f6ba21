package foreign

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/dlq/internal/stacks"
	"github.com/perdure/perdure/schemas"
)

func h(pairs ...string) (hs []kgo.RecordHeader) {
	for i := 0; i < len(pairs); i += 2 {
		hs = append(hs, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return hs
}

func be32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func be64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

const springTrace = `org.springframework.kafka.listener.ListenerExecutionFailedException: Listener method 'public void com.acme.Orders.on(com.acme.Order)' threw exception
	at org.springframework.kafka.listener.KafkaMessageListenerContainer$ListenerConsumer.decorateException(KafkaMessageListenerContainer.java:2946)
	at java.base/java.lang.Thread.run(Thread.java:1583)
	Suppressed: org.springframework.kafka.listener.ListenerExecutionFailedException: Restored Stack Trace
		at com.acme.Wrong.frame(Wrong.java:1)
Caused by: java.lang.NumberFormatException: For input string: "12x"
	at java.base/java.lang.NumberFormatException.forInputString(NumberFormatException.java:67)
	at java.base/java.lang.Integer.parseInt(Integer.java:661)
	at app//com.acme.Orders$$SpringCGLIB$$0.on(Orders.java:42)
	... 14 more
`

// Each as its system writes it.
func TestEachFormatIsUnderstood(t *testing.T) {
	user := h("x-tenant", "acme")
	tests := []struct {
		name    string
		headers []kgo.RecordHeader
		value   string
		want    Letter
		kept    string // headers of the original
	}{
		{
			name: "connect",
			headers: append(user, h("__connect.errors.topic", "orders", "__connect.errors.partition", "2", "__connect.errors.offset", "41",
				"__connect.errors.connector.name", "s3-sink", "__connect.errors.task.id", "0", "__connect.errors.stage", "VALUE_CONVERTER",
				"__connect.errors.class.name", "org.apache.kafka.connect.json.JsonConverter",
				"__connect.errors.exception.class.name", "org.apache.kafka.connect.errors.DataException",
				"__connect.errors.exception.message", "Converting byte[] to Kafka Connect data failed due to serialization error: ",
				"__connect.errors.exception.stacktrace", "org.apache.kafka.connect.errors.DataException: Converting byte[] to Kafka Connect data failed due to serialization error: \n"+
					"\tat org.apache.kafka.connect.json.JsonConverter.toConnectData(JsonConverter.java:324)\n"+
					"Caused by: com.fasterxml.jackson.core.JsonParseException: Unrecognized token 'hello': was expecting\n at [Source: (byte[])\"hello\"; line: 1, column: 6]\n"+
					"\tat com.fasterxml.jackson.core.JsonParser._constructError(JsonParser.java:1840)\n\t... 13 more\n")...),
			want: Letter{Format: KafkaConnect, Origin: dlq.Origin{Topic: "orders", Partition: 2, Offset: 41, Group: "s3-sink"},
				Class:   "com.fasterxml.jackson.core.JsonParseException",
				Message: `Unrecognized token 'hello': was expecting at [Source: (byte[])"hello"; line: 1, column: 6]`,
				Frame:   "com.fasterxml.jackson.core.JsonParser._constructError", Copied: true},
			kept: "x-tenant",
		},
		{
			name: "streams, without a message",
			headers: append(user, kgo.RecordHeader{Key: "__streams.errors.message"}, kgo.RecordHeader{Key: "__streams.errors.exception", Value: []byte("com.acme.Refused: no such shop")},
				kgo.RecordHeader{Key: "__streams.errors.topic", Value: []byte("in")}, kgo.RecordHeader{Key: "__streams.errors.partition", Value: []byte("0")},
				kgo.RecordHeader{Key: "__streams.errors.offset", Value: []byte("7")}),
			want: Letter{Format: KafkaStreams, Origin: dlq.Origin{Topic: "in", Offset: 7}, Class: "com.acme.Refused", Message: "no such shop", Copied: true},
			kept: "x-tenant",
		},
		{
			name: "share group that does not copy",
			headers: h("__dlq.errors.topic", "jobs", "__dlq.errors.partition", "3", "__dlq.errors.offset", "12", "__dlq.errors.group", "workers",
				"__dlq.errors.delivery.count", "5", "__dlq.errors.message", "Delivery count limit reached."),
			want: Letter{Format: ShareGroup, Origin: dlq.Origin{Topic: "jobs", Partition: 3, Offset: 12, Group: "workers"}, Message: "Delivery count limit reached."},
		},
		{
			name: "spring",
			headers: append(user, h("kafka_dlt-original-topic", "orders", "kafka_dlt-original-partition", be32(1), "kafka_dlt-original-offset", be64(808464432),
				"kafka_dlt-original-timestamp", be64(1732000000000), "kafka_dlt-original-timestamp-type", "CreateTime", "kafka_dlt-original-consumer-group", "billing",
				"retry_topic-attempts", be32(3),
				"kafka_dlt-exception-fqcn", "org.springframework.kafka.listener.ListenerExecutionFailedException", "kafka_dlt-exception-cause-fqcn", "java.lang.NumberFormatException",
				"kafka_dlt-exception-message", "Listener method threw", "kafka_dlt-exception-stacktrace", springTrace)...),
			want: Letter{Format: Spring, Origin: dlq.Origin{Topic: "orders", Partition: 1, Offset: 808464432, Group: "billing"},
				Class: "java.lang.NumberFormatException", Message: `For input string: "12x"`, Frame: "com.acme.Orders.on", Copied: true},
			kept: "x-tenant",
		},
		{
			name: "spring, without a trace",
			headers: h("kafka_dlt-original-topic", "orders", "kafka_dlt-exception-fqcn", "org.springframework.kafka.listener.ListenerExecutionFailedException",
				"kafka_dlt-exception-cause-fqcn", "com.acme.Refused", "kafka_dlt-exception-message", "Listener failed"),
			want: Letter{Format: Spring, Origin: dlq.Origin{Topic: "orders", Partition: -1, Offset: -1}, Class: "com.acme.Refused", Message: "Listener failed", Copied: true},
		},
		{
			name: "spring, from its retry topics",
			headers: append(user, h("kafka_original-topic", "orders", "kafka_original-partition", be32(1), "kafka_original-offset", be64(9),
				"kafka_original-timestamp", be64(1732000000000), "kafka_original-timestamp-type", "CreateTime", "kafka_dlt-original-consumer-group", "billing",
				"kafka_exception-fqcn", "org.springframework.kafka.listener.ListenerExecutionFailedException", "kafka_exception-message", "the first time",
				"kafka_exception-fqcn", "org.springframework.kafka.listener.ListenerExecutionFailedException", "kafka_exception-cause-fqcn", "java.lang.NumberFormatException",
				"kafka_exception-message", "Listener method threw", "kafka_exception-stacktrace", springTrace,
				"retry_topic-attempts", be32(3), "retry_topic-original-timestamp", be64(1), "retry_topic-backoff-timestamp", be64(2))...),
			want: Letter{Format: Spring, Origin: dlq.Origin{Topic: "orders", Partition: 1, Offset: 9, Group: "billing"},
				Class: "java.lang.NumberFormatException", Message: `For input string: "12x"`, Frame: "com.acme.Orders.on", Copied: true},
			kept: "x-tenant",
		},
		{
			name:    "spring, from its retry topics, without a group or a trace",
			headers: h("kafka_original-topic", "orders", "kafka_exception-fqcn", "com.acme.Refused", "kafka_exception-message", "no"),
			want:    Letter{Format: Spring, Origin: dlq.Origin{Topic: "orders", Partition: -1, Offset: -1}, Class: "com.acme.Refused", Message: "no", Copied: true},
		},
		{
			name:    "spring, of a group of it alone",
			headers: h("kafka_dlt-original-consumer-group", "billing", "kafka_exception-fqcn", "com.acme.Refused"),
			want:    Letter{Format: Spring, Origin: dlq.Origin{Group: "billing", Partition: -1, Offset: -1}, Class: "com.acme.Refused", Copied: true},
		},
		{
			name: "spring cloud stream",
			headers: h("x-original-topic", "orders", "x-original-partition", be32(0), "x-original-offset", be64(9), "x-exception-fqcn", "com.acme.Refused",
				"x-exception-message", "no", "x-exception-stacktrace", "com.acme.Refused: no\n\tat com.acme.Orders.lambda$on$3(Orders.java:9)"),
			want: Letter{Format: SpringCloud, Origin: dlq.Origin{Topic: "orders", Offset: 9}, Class: "com.acme.Refused", Message: "no", Frame: "com.acme.Orders.lambda$on$3", Copied: true},
		},
		{
			name: "smallrye",
			headers: h("dead-letter-reason", "HTTP 422", "dead-letter-cause", "no such shop", "dead-letter-exception-class-name", "java.util.concurrent.CompletionException",
				"dead-letter-cause-class-name", "com.acme.Refused", "dead-letter-topic", "orders", "dead-letter-partition", "0", "dead-letter-offset", "5"),
			want: Letter{Format: SmallRye, Origin: dlq.Origin{Topic: "orders", Offset: 5}, Class: "com.acme.Refused", Message: "no such shop", Copied: true},
		},
		{
			name:    "names of their own",
			headers: h("X-Error-Type", "Timeout", "X-Error-Message", "no answer in 30s", "Source-Topic", "jobs", "sourcePartition", "4", "source_offset", "77"),
			want:    Letter{Format: Unknown, Origin: dlq.Origin{Topic: "jobs", Partition: 4, Offset: 77}, Class: "Timeout", Message: "no answer in 30s", Copied: true},
			kept:    "X-Error-Type,X-Error-Message,Source-Topic,sourcePartition,source_offset",
		},
		{
			name:  "an error in the value",
			value: `{"id":7,"error":{"type":"Timeout","message":"no answer","stack":"x"}}`,
			want:  Letter{Format: Unknown, Origin: dlq.Origin{Partition: -1, Offset: -1}, Class: "Timeout", Message: "no answer", Copied: true},
		},
		{
			name:  "a field of the value",
			value: `{"payload":{"error":"not this"},"errorMessage":"no answer"}`,
			want:  Letter{Format: Unknown, Origin: dlq.Origin{Partition: -1, Offset: -1}, Message: "no answer", Copied: true},
		},
		{
			name:    "nothing at all",
			headers: h("traceparent", "00-1"), value: `{"message":"is of the payload"}`,
			want: Letter{Format: Unknown, Origin: dlq.Origin{Partition: -1, Offset: -1}, Copied: true},
			kept: "traceparent",
		},
		{
			name: "garbage where numbers should be",
			headers: h("kafka_dlt-original-topic", "o\xff", "kafka_dlt-original-partition", "\xff\xff\xff\xff", "kafka_dlt-original-offset", "",
				"kafka_dlt-exception-message", "\xffbad"),
			want: Letter{Format: Spring, Origin: dlq.Origin{Topic: "o\uFFFD", Partition: -1, Offset: -1}, Message: "\uFFFDbad", Copied: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &kgo.Record{Topic: "dlt", Headers: tt.headers}
			if tt.value != "" {
				r.Value = []byte(tt.value)
			}
			got, ok := Read(r)
			if !ok {
				t.Fatal("no letter")
			}
			var kept []string
			for _, h := range got.Headers {
				kept = append(kept, h.Key)
			}
			if k := strings.Join(kept, ","); k != tt.kept {
				t.Errorf("the original's headers are %q, want %q", k, tt.kept)
			}
			kind := tt.want.Origin.Topic
			if kind == "" {
				kind = "dlt"
			}
			tt.want.Fingerprint = dlq.Fingerprint(kind, tt.want.Class, tt.want.Message, tt.want.Frame)
			got.Headers = nil
			if !equal(&got, &tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func equal(a, b *Letter) bool {
	return a.Format == b.Format && a.Origin == b.Origin && a.Class == b.Class && a.Message == b.Message && a.Frame == b.Frame &&
		a.Fingerprint == b.Fingerprint && a.Copied == b.Copied
}

// A record that died in a connector after it had died in a Spring listener is a
// connector's letter; what Spring wrote was part of the record by then.
func TestTheLastFailureCounts(t *testing.T) {
	r := &kgo.Record{Headers: h("kafka_dlt-original-topic", "a", "kafka_dlt-exception-message", "first", "__connect.errors.topic", "a-dlt", "__connect.errors.exception.message", "second")}
	l, _ := Read(r)
	if l.Format != KafkaConnect || l.Origin.Topic != "a-dlt" || l.Message != "second" || len(l.Headers) != 2 {
		t.Errorf("%+v", l)
	}
}

func TestPerduresOwnLettersKeepTheirGroup(t *testing.T) {
	l := &dlq.Letter{Key: []byte("k"), Value: []byte("{}"), Headers: h(schemas.HeaderID, "main-1-7", schemas.HeaderType, "pay"), Origin: dlq.Origin{Topic: "tasks.q", Offset: 3},
		Kind: "pay", Reason: schemas.ReasonPermanent, ErrorClass: "HTTP 422", Message: "no sevens"}
	got, ok := Read(dlq.Encode(l))
	if want := dlq.Fingerprint("pay", "HTTP 422", "no sevens", ""); !ok || got.Format != Perdure || got.Fingerprint != want || got.Origin.Topic != "tasks.q" || len(got.Headers) != 2 {
		t.Errorf("%+v, want group %s", got, want)
	}
	if _, ok := Read(dlq.Resolved("k", "main-1-7", 1, l.DiedAt)); ok {
		t.Error("a resolution counts as a letter")
	}
	// Not ours after all: it stays visible.
	if got, ok := Read(&kgo.Record{Headers: h(schemas.HeaderRecord, "nonsense", "error", "x")}); !ok || got.Format != Unknown || got.Message != "x" {
		t.Errorf("%v %+v", ok, got)
	}
}

// One cause, two orders, two builds: one group. Another cause is another group.
func TestJavasCauseIsOneGroup(t *testing.T) {
	read := func(trace string) string {
		l, _ := Read(&kgo.Record{Topic: "dlt", Headers: h("kafka_dlt-original-topic", "orders", "kafka_dlt-exception-stacktrace", trace)})
		return l.Fingerprint
	}
	one := read(springTrace)
	if two := read(strings.NewReplacer(`"12x"`, `"7 y"`, "Orders.java:42", "Orders.java:57", "CGLIB$$0", "CGLIB$$17f3", "\n", "\r\n").Replace(springTrace)); two != one {
		t.Errorf("%s and %s", one, two)
	}
	for _, other := range [][2]string{{"NumberFormatException: For", "IllegalStateException: For"}, {"For input string", "Cannot parse"}, {".on(Orders", ".off(Orders"}} {
		if three := read(strings.ReplaceAll(springTrace, other[0], other[1])); three == one {
			t.Errorf("%q does not tell it from %q", other[1], other[0])
		}
	}
}

func TestWhatIsNoTraceIsNone(t *testing.T) {
	for _, s := range []string{"", "boom", "at the end (x)", "a sentence: with a colon\n\tat nowhere", strings.Repeat("\t", 100), "Caused by: \n\tat x.Y.z(Z.java:1)", ": \n\tat x.y("} {
		if class, message, frame := stacks.Java(s); class != "" {
			t.Errorf("%q: %q %q %q", s, class, message, frame)
		}
	}
}

// A header may be made to be slow to read.
func TestHostileTracesAreReadInTime(t *testing.T) {
	for _, s := range []string{strings.Repeat("\n", 1<<20), "a.B: x" + strings.Repeat("\n y", 1<<18), strings.Repeat("a.B: x\nCaused by: ", 1<<16), strings.Repeat("a.B\n\tat java.x(", 1<<16)} {
		start := time.Now()
		l, _ := Read(&kgo.Record{Headers: h("__connect.errors.exception.stacktrace", s)})
		if took := time.Since(start); took > 2*time.Second || len(l.Message) > dlq.MaxMessage {
			t.Errorf("%.20q…: %s, a message of %d bytes", s, took, len(l.Message))
		}
	}
}
