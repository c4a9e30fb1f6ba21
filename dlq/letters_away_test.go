package dlq

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
)

// A database that is away is a 503 with Retry-After and what to do, and tells
// nobody who its users are.
func TestLettersSayThatPostgresIsAway(t *testing.T) {
	db, err := pgxpool.New(t.Context(), "postgres://someone@127.0.0.1:1/somewhere")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	NewLetters(db).Routes(a)
	for _, path := range []string{"/v1/dead-letters", "/v1/dead-letters/main-1-1", "/v1/failure-groups", "/v1/failure-groups/fp1:aa"} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil))
		body := w.Body.String()
		if w.Code != 503 || w.Header().Get("Retry-After") != "1" || !strings.Contains(body, `"next"`) || !strings.Contains(body, "problem:unavailable") || strings.Contains(body, "somewhere") {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), body)
		}
	}
}
