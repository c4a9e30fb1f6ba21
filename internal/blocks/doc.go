// Package blocks knows which dead letters block a key (on_dead: block).
//
// A block stands on the compacted topic perdure.control before the task that died
// is acknowledged, so that whoever owns the partition next finds it, whatever
// became of the worker and of Redis. It ends by a word in the key's own line
// (schemas.Line). The whole protocol is in docs/decisions/0220; the model that was
// explored is in model_test.go.
//
// It keeps the second half of I4: with on_dead: block no later task of a key runs
// before the letter of an earlier one is settled.
package blocks
