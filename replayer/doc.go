// Package replayer runs replays: managed jobs that put dead letters back into
// the outbox, each under the same task id and the next epoch.
//
// Jobs plans, starts, cancels and shows them, and needs only Postgres, so that
// any process may serve its routes. Replayer does the work of started jobs.
//
// A letter moves in one Postgres statement: compare-and-set of the letter at
// its epoch, outbox row, audit row, the job's own note. So whatever is killed
// whenever, and however many replays want the same letter, it moves once.
//
// It never runs a task, never writes to Redis or Kafka, and never replays a task
// of which it cannot say that it is not completed (I7; see judge). It keeps I1: a
// letter is either unfinished here or on its way as a row of the outbox.
package replayer
