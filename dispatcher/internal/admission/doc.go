// Package admission decides how much the HTTP API accepts: what a token may
// enqueue a second (rate.go) and a day (quota.go), how many NDJSON posts run at
// once (streams.go), and that nothing comes in while too much of the outbox is
// not relayed yet (backlog.go).
//
// It decides before a task is written and never looks at one: it counts. What it
// refuses is a 413, 429 or 503 that says when to come again. Tasks that are
// enqueued in a producer's own transaction do not pass here.
package admission
