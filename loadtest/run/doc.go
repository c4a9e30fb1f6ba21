// Package run is the load generator behind `perdure loadtest run`: it offers
// tasks in a closed loop (a backlog, or so many in flight) or an open one (a rate
// that nothing slows down), sees each of them begin, and says how long they took
// and what they cost.
//
// Latencies in an open loop count from the moment at which a task was due to be
// sent, not from when it could be: a system that stalls its callers does not get
// its stalls left out (coordinated omission). CPU is counted over all processes
// (package usage).
//
// It never judges a run by what Perdure says of itself, but for the last step:
// that tasks are done and offsets committed, which only Perdure's own stores can
// tell. It checks I1 on each run: every task that was accepted began, and none
// is left over.
//
// What it loads is behind [System], which internal/app/stage builds.
package run
