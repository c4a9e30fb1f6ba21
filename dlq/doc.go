// Package dlq is what is known of tasks that will not be retried by themselves.
//
// It holds the dead-letter record (Letter, Encode, Decode, Resolved), the
// fingerprint that groups letters by cause, the events of tasks off the happy
// path, the Index that copies both from Kafka into Postgres, and the queries
// that the API answers from there (Letters).
//
// It never runs, retries or replays a task, and never decides whether one is
// dead: workers and the relay do, and write a Letter. It keeps its share of I1
// (a dead task is visible: an open letter is never pruned, garbage on a
// dead-letter topic becomes a letter too) and of I3 (offsets are committed only
// after Postgres has the rows).
package dlq
