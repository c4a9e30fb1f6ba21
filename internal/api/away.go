package api

// Postgres away, whichever route asked: a 503 that says when to ask again, not a
// 500 that says that the program is broken.

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresAway returns the problem for an error that says that Postgres did not
// answer; nil if err is another.
func postgresAway(err error) *Problem {
	var (
		connect *pgconn.ConnectError
		server  *pgconn.PgError
		network net.Error
		away    bool
	)
	switch {
	case errors.As(err, &server):
		// Gone, out of resources, shutting down, read-only after a failover.
		c := server.Code
		away = len(c) == 5 && (c[:2] == "08" || c[:2] == "53" || c[:3] == "57P" || c == "25006")
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		away = true
	}
	if !away {
		return nil
	}
	return NewProblem(http.StatusServiceUnavailable, "unavailable", "Postgres does not answer").
		WithRetryAfter(time.Second).WithNext("ask again; perdure doctor")
}
