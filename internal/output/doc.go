// Package output writes a command's results: as text for people, as one JSON
// document, or as JSON lines. Results go to stdout and to nothing else.
//
// What it prints came from payloads, headers and other programs' error
// messages, so it never lets a byte through that a terminal obeys: control
// characters, escape sequences and bidirectional overrides are shown, not sent.
package output
