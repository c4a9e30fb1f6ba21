// Command peers runs the same work through Perdure, River and Asynq, in turn, on
// the same servers, and prints how fast each was and what it cost:
//
//	cd loadtest/peers && go run . compare -pairs 5 -tasks 50000
//
// The other commands measure one thing each, and put their table between the
// command's markers of docs/performance.md (-doc):
//
//	enqueue   perdure.enqueue in a transaction, beside a plain INSERT of the row
//	insert    client.EnqueueMany beside River's InsertManyFast, nothing worked off
//	http      posts by the dispatcher, beside a handler with a transaction a post
//	relay     perdure relay: a backlog, nothing to do, a steady rate
//	held      tasks that pass while a transaction keeps its snapshot open
//	letters   dead letters: indexing, pages of ten million, replays (-part)
//
// It is a module of its own, so that River and Asynq never enter Perdure's
// go.mod. Every run is a process of its own, with a database, topics and keys of
// its own; all tasks are accepted and worked off durably (fsync, synchronous
// commits, acks=all, Redis's AOF every second), and both are counted. Servers:
// PERDURE_POSTGRES_URL, PERDURE_REDIS_ADDRS, PERDURE_KAFKA_BROKERS.
//
// It checks I1 as far as it goes: in every run each task began exactly once.
package main
