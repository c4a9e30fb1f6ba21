// Package service holds what every long-running process of Perdure shares,
// the binary's roles and a user's own worker alike: the logger, signals, the
// health server, waiting for servers at start, and a Group that starts parts
// in order and stops them in reverse.
//
// It knows no task, topic or table, and never ends the process: it returns
// why, and main decides. Its stop order is half of I9; the other half is each
// part's own.
package service
