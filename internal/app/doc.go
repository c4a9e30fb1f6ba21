// Package app puts the parts together: it opens what a role needs, gives each
// role its configuration and dependencies, assembles the API from every role's
// routes, and stops all of it in the reverse order.
//
// It decides nothing about a task. A process is built in one readable function
// (Dispatcher, Relay, Worker, Replayer, Up); what they share stands in
// process.go (one process) and connect.go (its servers). It keeps the outer
// half of I9: nothing is closed while something that uses it still runs.
package app
