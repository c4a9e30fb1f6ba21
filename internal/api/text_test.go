package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/internal/api"
)

// Postgres keeps neither a NUL nor what is not UTF-8. An address that holds such
// text reaches no route; a body whose text Postgres refused is the client's
// mistake, not the program's.
func TestTextThatNoDatabaseKeepsIsTheClientsMistake(t *testing.T) {
	reached := 0
	a := api.New(http.NewServeMux(), "test", nil, slog.New(slog.DiscardHandler))
	api.Register(a, api.ReadMeta, huma.Operation{OperationID: "get", Method: "GET", Path: "/v1/things/{id}"},
		func(context.Context, *struct {
			ID   string `path:"id"`
			Kind string `query:"kind"`
		}) (*answer, error) {
			reached++
			return &answer{}, nil
		})
	code := ""
	api.Register(a, api.Replay, huma.Operation{OperationID: "post", Method: "POST", Path: "/v1/things"},
		func(context.Context, *struct{}) (*answer, error) {
			return nil, fmt.Errorf("insert: %w", &pgconn.PgError{Code: code, Message: "hunter2"})
		})

	for _, c := range []struct{ target, pointer string }{
		{"/v1/things/%00", "#/path"},
		{"/v1/things/a%FFb", "#/path"},
		{"/v1/things/a?kind=a%00b", "#/query/kind"},
		{"/v1/things/a?x=1&kind=%C3%28", "#/query/kind"},
		{"/v1/things/a?kind=ok&kind=%FF", "#/query/kind"},
		{"/v1/things/a?%00=1", "#/query"},
		{"/v1/no-such-path/%00", "#/path"},
	} {
		w, p := do(a, "GET", c.target)
		if w.Code != 422 || p.Name() != "invalid-request" || len(p.Errors) != 1 || p.Errors[0].Pointer != c.pointer {
			t.Errorf("%s: %d %s, want 422 at %s", c.target, w.Code, w.Body, c.pointer)
		}
	}
	if reached != 0 {
		t.Errorf("the route was reached %d times", reached)
	}
	for _, fine := range []string{"/v1/things/%F0%9F%98%80?kind=%C3%A4", "/v1/things/a%2Fb", "/v1/things/a?kind=%0A&%zz"} {
		if w, _ := do(a, "GET", fine); w.Code != 200 {
			t.Errorf("%s: %d %s", fine, w.Code, w.Body)
		}
	}

	for given, want := range map[string]int{"22021": 422, "22P05": 422, "23505": 500} {
		code = given
		if w, p := do(a, "POST", "/v1/things"); w.Code != want || want == 422 && p.Errors[0].Pointer != "#" {
			t.Errorf("SQLSTATE %s: %d %s, want %d", given, w.Code, w.Body, want)
		}
	}
}
