// Package pg is how every part reaches Postgres: the migrations and a pool
// that works directly and through a transaction pooler.
//
// It holds no queries of the roles; those stand next to their use. The
// migrations are embedded, so that a binary always brings the schema it was
// built for. It keeps I1 in a small way: a database belongs to one source, and
// Migrate refuses to give it another, because two sources in one outbox would
// give two tasks one id.
package pg
