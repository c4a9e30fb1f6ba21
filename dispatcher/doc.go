// Package dispatcher accepts tasks: over HTTP, and, through dispatcher/client
// and the SQL functions, from Go and SQL. It validates each task against the
// catalog and writes it to the outbox; once Postgres has committed, the task is
// accepted (I1).
//
// It never produces to Kafka: Kafka may be away and tasks are still accepted.
// It reads Kafka and Redis only for the scaling signal and the history of a
// task.
package dispatcher
