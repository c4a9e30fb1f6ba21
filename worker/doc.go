// Package worker runs tasks: fetch → admit → claim → execute → outcome → commit.
//
// Users import it to write handlers in Go:
//
//	func main() {
//		worker.Main(func(w *worker.Worker) error {
//			worker.Handle(w, "email.send", func(ctx context.Context, t *worker.Task[Email]) error {
//				return send(ctx, t.Payload)
//			})
//			return nil
//		})
//	}
//
// `perdure worker` is the same Worker with the kinds that have an HTTP executor.
// The stages stand in one list, in pipeline.go, each in a file of its name.
//
// It keeps no state of its own: what it knows is in Kafka (records, offsets) and
// Redis (claims). It never opens Postgres, never deletes, and never decides
// alone who may run a task: the claims do. It keeps
//
//	I1 (with the relay and the dlq)  a record ends as done, on a retry topic, or dead
//	I2 (with the fence or the inbox) a grant carries a run higher than every earlier one
//	I3 an offset is committed only below records that are durable elsewhere
//	I4 tasks of a key run one after the other, in the order of their records
//	I5 a task whose workers die runs alone, and only crashes alone condemn it
//	I9 after a stop nothing starts, what did not start is handed back
//	I10 no safety decision is made from this host's clock or another's
package worker
