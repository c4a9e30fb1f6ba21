// Package relay moves accepted tasks from the outbox into Kafka, and retries
// from the delay topics back to their queues.
//
// One relay a source is active, by a lease row on the database's clock. A pass
// reads, in one statement, the difference between the cursor's snapshot and the
// present one, produces only rows that are flushed to disk, waits for every
// acknowledgement, and then moves the cursor under its fence, in one transaction
// with the relay log. So a late commit is never skipped and an open transaction
// stalls nobody. Rows not yet due, and rows of a queue whose topic is broken, are
// filed in tables of their own in that same transaction. The move also takes the
// snapshot of the next difference, which is read in the same round trip and needs no
// flush.
//
// It keeps I1 (nothing accepted is skipped: what cannot be produced is parked,
// scheduled or dead, and visible), its share of I4 (rows of a key reach their
// partition in the order of their ids, also through parking) and I10 (lease and
// cursor know only the database's clock and its fence).
//
// It never runs a task, never deletes an outbox row that is not relayed and older
// than the history, and never resets anything by itself: after a restore, a
// failover that lost commits, or on a standby it halts with a HaltError. It may
// repeat records; claims absorb that.
package relay
