// Package claims decides who may run a task now. It keeps the claim's state
// machine in Redis: who runs a task, what waits, what is dead, what is done.
//
// It never runs, produces or acknowledges anything: its callers do what the
// Verdict says. Redis down is an error, never a verdict: nothing runs unclaimed.
// It keeps I2 (with the inbox or a fence), I5, I7 (the positive proof that a
// replay asks for) and I10: silence is judged by Redis's own clock, or by watchers
// on their own (Bury, which names the beats that they saw), and no decision
// reads another host's.
//
// A worker's life with it:
//
//	Open, Beat                        before the first claim; Beat every Config.Interval
//	Claim → VerdictRun                the handler starts, under Grant.Run
//	  succeeded: Done                 then acknowledge
//	  may retry: Wait                 then produce the retry and acknowledge, or wait here (Local)
//	  gave up:   Dead                 then produce the letter and acknowledge
//	  never started: HandBack         on a stop, or when its partition goes away
//	  cannot be stopped: Abandon
//	ErrLost from anything: stop claiming; Open, Beat, Reassert; go on
//	ErrPaused from Claim: ask again after Config.Interval
//	ErrGone from Beat or Claim: others called this process dead; a new boot nonce
//	stop: HandBack, then Leave
//
// The answers false of Wait and Dead mean that the claim is not this owner's any
// more. Its record is not decided by that: ask Claim again, and do what it says.
//
// What Redis can still lose: a failover may lose the newest claims, because its
// replication is asynchronous. What their owners hold they re-assert; a task
// that finished in that window and whose record was not committed yet runs
// again, under a higher run.
//
// Map of the files: claims.go and outcomes.go the words; start.go and lease.go first
// attempts, all of a call together; store.go, claim.go, finish.go, read.go, reassert.go the calls; members.go who lives; lua/ the decisions, one script a
// call; incarnation.go, identity.go, ledger.go which life of Redis this is;
// unsure.go claims whose answer was lost; run.go, config.go, decode.go the forms.
package claims
