// Package tracker remembers, for one assignment generation of one partition,
// which fetched records are durable elsewhere (done, on a retry topic, dead),
// and so how far the group's offset may be committed.
//
// A Tracker is made when a partition is assigned and dies when it is revoked:
// the revoked flag stands under the same lock as acknowledgements, so an ack
// that comes too late changes nothing that can still be committed. Kafka's
// OffsetCommit checks the member, not who owns the partition; this is the check.
//
// Completed offsets above the low watermark travel in the commit's metadata, so
// that whoever is assigned the partition next runs again only what was in flight.
//
// It never talks to Kafka and starts nothing. It keeps I3: a committed offset
// never passes a record that was not acknowledged.
package tracker
