// Package testkit hands each test what it needs of real servers and nothing
// of its neighbours': a topic and group prefix, an empty or a migrated
// database, a Redis key prefix.
//
// Servers come, in this order, from the environment (PERDURE_TEST_KAFKA,
// PERDURE_TEST_REDIS, PERDURE_TEST_POSTGRES; `make test` starts real ones and
// sets these), else embedded ones are started once per test process. With
// PERDURE_TEST_REQUIRE_REAL=1 a test that would fall back to kfake or
// miniredis fails instead. A Postgres that runs from binaries is a real one.
//
// Packages give their TestMain to [Main], which closes what was started and
// then looks for leaked goroutines; a process that is killed instead leaves
// nothing running either: the kernel ends its Postgres and its redis-server.
//
// It is for tests only, and imports no role: every role's tests may use it.
package testkit
