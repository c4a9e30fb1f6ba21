// Package relaylog reads and writes the relay's log: one row a relayed batch,
// which says of each outbox id the topic, partition and offset that it got.
//
// It is how a task can be followed into Kafka although nothing is written for a
// single task on the happy path (DESIGN 3.12). It never changes an outbox row
// and decides nothing: it serves people and `perdure balance`, so that I1 can be
// checked on a running system.
package relaylog
