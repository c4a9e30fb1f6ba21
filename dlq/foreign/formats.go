package foreign

// The headers by which the systems that we know say what failed, and where.

// Format is a convention of dead-letter records.
type Format string

// The formats that are told apart.
const (
	Perdure      Format = "perdure"
	KafkaConnect Format = "kafka-connect"
	KafkaStreams Format = "kafka-streams"
	ShareGroup   Format = "share-group"
	Spring       Format = "spring-kafka"
	SpringCloud  Format = "spring-cloud-stream"
	SmallRye     Format = "smallrye"
	Unknown      Format = "unknown"
)

// layout is a format's headers. A name that is "" does not exist there.
type layout struct {
	format Format
	// Headers that begin so were added with the failure, and are no part of the
	// original record. The first is the one that the format is known by.
	prefixes                         []string
	topic, partition, offset, group  string
	class, cause, message, stack     string
	causeMessage, keyClass, keyError string
}

// layouts are the formats but Perdure's own. Numbers are text, or big-endian as
// Spring writes them: see number.
var layouts = []layout{
	{
		format: KafkaConnect, prefixes: []string{"__connect.errors."},
		topic: "__connect.errors.topic", partition: "__connect.errors.partition", offset: "__connect.errors.offset",
		group: "__connect.errors.connector.name", class: "__connect.errors.exception.class.name",
		message: "__connect.errors.exception.message", stack: "__connect.errors.exception.stacktrace",
	},
	{
		format: KafkaStreams, prefixes: []string{"__streams.errors."},
		topic: "__streams.errors.topic", partition: "__streams.errors.partition", offset: "__streams.errors.offset",
		class: "__streams.errors.exception", message: "__streams.errors.message", stack: "__streams.errors.stacktrace",
	},
	{
		format: ShareGroup, prefixes: []string{"__dlq.errors."},
		topic: "__dlq.errors.topic", partition: "__dlq.errors.partition", offset: "__dlq.errors.offset",
		group: "__dlq.errors.group", message: "__dlq.errors.message",
	},
	{
		// A record that came through Spring's retry topics carries their state
		// too: sent back with it, it would count as tried already.
		format: Spring, prefixes: []string{"kafka_dlt-", "retry_topic-", "springDeserializerException"},
		topic: "kafka_dlt-original-topic", partition: "kafka_dlt-original-partition", offset: "kafka_dlt-original-offset",
		group: "kafka_dlt-original-consumer-group", class: "kafka_dlt-exception-fqcn", cause: "kafka_dlt-exception-cause-fqcn",
		message: "kafka_dlt-exception-message", stack: "kafka_dlt-exception-stacktrace",
		keyClass: "kafka_dlt-key-exception-fqcn", keyError: "kafka_dlt-key-exception-message",
	},
	// What Spring's retry topics (@RetryableTopic) send on, and at last to their
	// dead-letter topic, is named otherwise, but for the consumer group.
	{
		format: Spring, prefixes: []string{"kafka_original-", "kafka_exception-", "kafka_key-exception-", "kafka_dlt-", "retry_topic-", "springDeserializerException"},
		topic: "kafka_original-topic", partition: "kafka_original-partition", offset: "kafka_original-offset",
		group: "kafka_dlt-original-consumer-group", class: "kafka_exception-fqcn", cause: "kafka_exception-cause-fqcn",
		message: "kafka_exception-message", stack: "kafka_exception-stacktrace",
		keyClass: "kafka_key-exception-fqcn", keyError: "kafka_key-exception-message",
	},
	{
		format: SpringCloud, prefixes: []string{"x-original-", "x-exception-"},
		topic: "x-original-topic", partition: "x-original-partition", offset: "x-original-offset",
		class: "x-exception-fqcn", message: "x-exception-message", stack: "x-exception-stacktrace",
	},
	{
		format: SmallRye, prefixes: []string{"dead-letter-"},
		topic: "dead-letter-topic", partition: "dead-letter-partition", offset: "dead-letter-offset",
		class: "dead-letter-exception-class-name", cause: "dead-letter-cause-class-name",
		message: "dead-letter-reason", causeMessage: "dead-letter-cause",
	},
}

// ours begins the headers of Perdure's own records.
const ours = "perdure_"
