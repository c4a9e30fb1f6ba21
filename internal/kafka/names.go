package kafka

// Topic and group names, in one place.

// Names builds topic and group names. The zero value has no prefix.
type Names struct{ Prefix string }

// Tasks is the topic of a queue.
func (n Names) Tasks(queue string) string { return n.Prefix + "tasks." + queue }

// Retry is the delay topic of a tier, such as "1m".
func (n Names) Retry(tier string) string { return n.Prefix + "retry." + tier }

// Events is the topic of what happened to a queue's tasks, the happy path excepted.
func (n Names) Events(queue string) string { return n.Prefix + "events." + queue }

// DLQ is the topic of a queue's dead letters.
func (n Names) DLQ(queue string) string { return n.Prefix + "dlq." + queue }

// Control is the compacted topic of facts that must outlive Redis and Postgres.
func (n Names) Control() string { return n.Prefix + "perdure.control" }

// WorkerGroup is the consumer group of a queue's workers.
func (n Names) WorkerGroup(queue string) string { return n.Prefix + "perdure." + queue }

// ShareGroup is the share group of the workers of a queue with delivery: shared.
// Kafka tells groups of the two types apart only by their names.
func (n Names) ShareGroup(queue string) string { return n.Prefix + "perdure." + queue + ".shared" }

// DefaultSource is PERDURE_SOURCE where it is not set.
const DefaultSource = "main"

// IndexGroup is the consumer group of a source's dead-letter index. The default
// source's has no name in it.
func (n Names) IndexGroup(source string) string {
	if source == DefaultSource {
		return n.Prefix + "perdure.dlq-index"
	}
	return n.Prefix + "perdure.dlq-index." + source
}

// RetryGroup is the consumer group that moves retries back to their queues.
func (n Names) RetryGroup() string { return n.Prefix + "perdure.retry" }
