package dispatcher

// What went wrong, as a problem of the API.

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
)

var (
	errOverloaded = errors.New("too many tasks wait to be written")
	errStopping   = errors.New("the dispatcher is starting or stopping")
)

const retrySafely = "send it again; with an Idempotency-Key that is safe even if the first try was accepted"

// problemOf answers an error of the client. nil means that the caller should
// answer 500 and log err.
func problemOf(err error) *api.Problem {
	var ready *api.Problem
	var bad *client.InvalidError
	away := func(name, detail, next string) *api.Problem {
		return api.NewProblem(http.StatusServiceUnavailable, name, detail).WithRetryAfter(time.Second).WithNext(next)
	}
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.As(err, &bad):
		return invalidProblem(bad)
	case errors.Is(err, client.ErrKeyReuse):
		return api.NewProblem(http.StatusUnprocessableEntity, "key-reuse", err.Error(),
			api.FieldError{Pointer: "#/idempotency_key", Detail: "belongs to a task with another payload"}).
			WithNext("one key is one request: use a new key for another payload")
	case errors.Is(err, client.ErrStillCommitting):
		return api.NewProblem(http.StatusConflict, "still-committing", "the first request with this key has not ended yet").
			WithRetryAfter(time.Second).WithNext("send the same request again")
	case errors.Is(err, client.ErrNotMigrated):
		return away("not-migrated", "the database lacks Perdure's tables", "perdure migrate up")
	case errors.Is(err, client.ErrUnavailable):
		return away("unavailable", "Postgres does not answer", retrySafely)
	case errors.Is(err, errOverloaded):
		return away("overloaded", "more tasks arrive than Postgres can write", retrySafely)
	case errors.Is(err, errStopping):
		return away("stopping", errStopping.Error(), retrySafely)
	case errors.Is(err, client.ErrSerialization):
		return away("busy", "the transaction lost against others three times", retrySafely)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return away("timeout", "Postgres did not answer in time", retrySafely)
	}
	return nil
}

func invalidProblem(bad *client.InvalidError) *api.Problem {
	p := invalid()
	for _, e := range bad.Errors {
		p.Errors = append(p.Errors, api.FieldError(e))
	}
	switch {
	case errors.Is(bad, client.ErrUnknownKind):
		p.Type = api.ProblemPrefix + "unknown-kind"
		p.Next = "declare the kind in catalog.yaml, then run `perdure catalog apply`"
	case errors.Is(bad, client.ErrTooLarge):
		p.Type, p.Status, p.Title = api.ProblemPrefix+"too-large", http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
		p.Next = "store the data elsewhere and send where it is"
	}
	return p
}

// below moves a problem's pointers under a prefix: an element of an array.
func below(prefix string, p *api.Problem) []api.FieldError {
	if len(p.Errors) == 0 {
		return []api.FieldError{{Pointer: "#/" + prefix, Detail: p.Detail}}
	}
	errs := make([]api.FieldError, len(p.Errors))
	for i, e := range p.Errors {
		errs[i] = api.FieldError{Pointer: "#/" + prefix + e.Pointer[1:], Detail: e.Detail}
	}
	return errs
}
