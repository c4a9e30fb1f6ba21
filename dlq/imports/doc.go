// Package imports sends other systems' dead letters back to the topics that they
// came from, each at most once.
//
// What was sent stands in perdure.imported, by the place of the letter: cluster,
// topic, partition, offset. A letter is claimed there before it is sent, in the
// transaction of the audit's row, and marked when Kafka has acknowledged it. Where
// a process ended in between, its record is looked for at its destination, by the
// header that names the letter (settle.go). Only what cannot be told so is left to a
// person, as unknown.
//
// It is not a part of any role: it has no claims, no epochs, no outcomes, because
// whoever reads the destination is not ours. It keeps no letter: they stay in
// their topic, which package dlq/foreign reads.
package imports
