package api

// Text that no database keeps, refused before any route sees it: in a query it
// would be an error of Postgres', and a 500 for what the client wrote.

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// badAddress returns the problem of a path or query that holds a NUL or is not
// UTF-8; nil if it is well.
func badAddress(u *url.URL) *Problem {
	var errs []FieldError
	if detail := badText(u.Path); detail != "" {
		errs = append(errs, FieldError{"#/path", detail})
	}
	if u.RawQuery != "" {
		// A pair that cannot be parsed is for the route, which ignores it or not.
		query, _ := url.ParseQuery(u.RawQuery)
		for name, values := range query {
			if detail := badText(name); detail != "" {
				errs = append(errs, FieldError{"#/query", "a name " + detail})
				continue
			}
			for _, v := range values {
				if detail := badText(v); detail != "" {
					errs = append(errs, FieldError{"#/query/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name), detail})
				}
			}
		}
	}
	if errs == nil {
		return nil
	}
	return NewProblem(http.StatusUnprocessableEntity, "invalid-request", "the address holds text that nothing here can have: see errors", errs...)
}

func badText(s string) string {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return "holds a NUL byte"
	case !utf8.ValidString(s):
		return "is not UTF-8"
	}
	return ""
}

// unstorable returns the problem for an error of Postgres' about text of the
// body that it cannot keep (JSON may hold \u0000, Postgres may not); nil if err
// is another. Nothing was written: the statement failed.
func unstorable(err error) *Problem {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != "22021" && server.Code != "22P05" {
		return nil
	}
	return NewProblem(http.StatusUnprocessableEntity, "invalid-request", "the request holds text that cannot be stored",
		FieldError{"#", `holds a NUL, as "\u0000"`})
}
