// Package client enqueues tasks from Go, in the caller's own transaction or in
// one of its own.
//
//	c, err := client.New(ctx, pool)
//	…
//	ref, err := c.EnqueueTx(ctx, tx, client.Task{Kind: "refund.issue", Payload: refund})
//
// A task is accepted when the transaction commits, and only then (I1). Before a
// row is written, the task is checked against the catalog that `perdure catalog
// apply` wrote to the database: kind, queue, sizes, deadline, headers, and the
// payload against the kind's JSON Schema. The client talks to Postgres only and
// starts no goroutine.
//
// The database role needs
//
//	grant usage on schema perdure to <role>;
//	grant select on perdure.source, perdure.kinds, perdure.queues to <role>;
//	grant insert, select on perdure.outbox to <role>;
//	grant usage on sequence perdure.outbox_id_seq to <role>;
//	grant select, insert, update on perdure.unique_keys to <role>;
package client
