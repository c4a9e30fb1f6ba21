// Package foreign reads dead-letter topics that other systems wrote: Kafka
// Connect's, Kafka Streams' (KIP-1034), share groups' (KIP-1191), Spring Kafka's,
// and those of whoever has conventions of their own.
//
// Read understands one record, Topic reads a whole topic to where it ended when
// the reading began, and Groups counts what was read by cause, with the
// fingerprint that Perdure's own letters have. InOrder and Tail read for whoever
// acts on what is read: package dlq/imports.
//
// It only reads: it joins no group, commits no offset, produces nothing, and
// needs neither Postgres nor Redis. What it holds is bounded, however many
// records there are.
package foreign
