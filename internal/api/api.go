package api

// One API for all routes: huma on one mux, each route with its verb.

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// API carries every /v1 route and serves /openapi.json. Routes are registered
// before it serves.
type API struct {
	huma.API
	tokens  *Tokens
	log     *slog.Logger
	mux     *http.ServeMux
	handler http.Handler
}

// New returns an API without routes on mux, which may carry other handlers
// (health, metrics): those go through the same guard, but need no token.
// version is the binary's. tokens nil means everything is allowed.
func New(mux *http.ServeMux, version string, tokens *Tokens, log *slog.Logger) *API {
	cfg := huma.DefaultConfig("Perdure", version)
	cfg.DocsPath = ""     // its page loads scripts from a CDN
	cfg.SchemasPath = ""  // no $schema in answers
	cfg.CreateHooks = nil // the same
	cfg.Transformers = []huma.Transformer{fromHuma}
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "a token of PERDURE_API_TOKENS_FILE"},
	}
	a := &API{API: humago.New(mux, cfg), tokens: tokens, log: log, mux: mux, handler: mux}
	mux.HandleFunc("/", a.notFound)
	if tokens == nil {
		a.handler = guardLocal(mux)
	}
	return a
}

// ServeHTTP serves the whole mux.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if bad := badAddress(r.URL); bad != nil {
		WriteProblem(w, bad)
		return
	}
	a.handler.ServeHTTP(w, r)
}

// Register declares a route that needs verb. Errors that handler returns are
// answered as they are if they are a *Problem, else as a 500 whose cause is
// only logged.
func Register[I, O any](a *API, verb Verb, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	op.Middlewares = append(huma.Middlewares{a.require(verb)}, op.Middlewares...)
	if verb != Public {
		if a.tokens != nil {
			op.Security = []map[string][]string{{"token": {string(verb)}}}
		}
		op.Description = strings.TrimSpace(op.Description + "\n\nNeeds the verb `" + string(verb) + "`.")
	}
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	schema := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	op.Responses["default"] = &huma.Response{
		Description: "a problem",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}
	huma.Register(a.API, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err == nil {
			return out, nil
		}
		if _, ok := err.(huma.StatusError); !ok && ctx.Err() == nil { //nolint:errorlint // huma.StatusError is what huma itself looks for
			a.log.ErrorContext(ctx, "request failed", "operation", op.OperationID, "error", err)
			if away := postgresAway(err); away != nil {
				return nil, away
			}
			if bad := unstorable(err); bad != nil {
				return nil, bad
			}
		}
		return nil, err
	})
}

// require lets a request pass that has a token with verb.
func (a *API) require(verb Verb) func(huma.Context, func(huma.Context)) {
	return func(c huma.Context, next func(huma.Context)) {
		c = calledFrom(c)
		if verb == Public || a.tokens == nil {
			next(c)
			return
		}
		_, w := humago.Unwrap(c)
		scheme, token, _ := strings.Cut(c.Header("Authorization"), " ")
		var who *principal
		if strings.EqualFold(scheme, "bearer") {
			who = a.tokens.authenticate(strings.TrimSpace(token))
		}
		switch {
		case who == nil:
			WriteProblem(w, NewProblem(http.StatusUnauthorized, "unauthorized", "no valid token").
				WithNext("send `Authorization: Bearer <token>`; for the command line set PERDURE_API_TOKEN"))
		case !slices.Contains(who.verbs, verb):
			WriteProblem(w, NewProblem(http.StatusForbidden, "forbidden", "token "+who.name+" lacks the verb "+string(verb)).
				WithNext("add "+string(verb)+" to its verbs in PERDURE_API_TOKENS_FILE, or use another token"))
		default:
			next(huma.WithValue(c, principalKey{}, who))
		}
	}
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// notFound answers what no route matches: 405 where another method would.
func (a *API) notFound(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, m := range methods {
		probe := r.Clone(r.Context())
		probe.Method = m
		if _, pattern := a.mux.Handler(probe); pattern != "/" && pattern != "" {
			allow = append(allow, m)
		}
	}
	if len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		WriteProblem(w, NewProblem(http.StatusMethodNotAllowed, "method-not-allowed", r.Method+" is not for this path").
			WithNext("use "+strings.Join(allow, " or ")))
		return
	}
	WriteProblem(w, NewProblem(http.StatusNotFound, "not-found", "no such path").WithNext("see /openapi.json"))
}

// WriteProblem answers p outside a huma handler.
func WriteProblem(w http.ResponseWriter, p *Problem) {
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) // the client is gone: nobody to tell
}
