// Package schemas holds the words that every part of Perdure shares: the task
// envelope, its Kafka form, the catalog of kinds and queues, and the names of
// states, reasons and headers.
//
// It talks to nothing: no network, no clock, no global state. Everything that
// it decodes comes from outside, so every decoder returns an error, never
// panics, and is fuzzed.
package schemas
