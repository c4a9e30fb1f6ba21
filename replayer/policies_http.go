package replayer

// /v1/policies: what the catalog's policies did and would do.

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// PolicyView is a policy as it stands.
type PolicyView struct {
	Policy  string        `json:"policy"`
	Enabled bool          `json:"enabled"`
	DryRun  bool          `json:"dry_run,omitempty"`
	Action  string        `json:"action"`
	Kind    string        `json:"kind,omitempty"`
	Class   string        `json:"class,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Message string        `json:"message,omitempty"`
	Note    string        `json:"note,omitempty" doc:"what it did last, or why it is switched off"`
	Strikes int           `json:"strikes" doc:"acts in a row that made nothing better"`
	Replay  string        `json:"replay,omitempty" doc:"its last replay"`
	Letters int64         `json:"letters" doc:"that it acted on, ever"`
	ActedAt *time.Time    `json:"acted_at,omitempty"`
	Groups  []PolicyGroup `json:"groups,omitempty" doc:"that it matches now; only when asked for one policy"`
}

type policyInput struct {
	Name string `path:"name"`
	Body *struct {
		Why string `json:"why,omitempty" maxLength:"2000" doc:"for the audit"`
	}
}

type policyNameInput struct {
	Name string `path:"name"`
}

type policyOutput struct{ Body *PolicyView }

type policiesOutput struct {
	Body struct {
		Policies []PolicyView `json:"policies"`
	}
}

// ErrNoPolicy says that the catalog has no policy of this name.
var ErrNoPolicy = errors.New("no such policy")

// Routes registers /v1/policies and what is below it.
func (p *Policies) Routes(a *api.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"policies"}}
	}
	api.Register(a, api.ReadMeta, op("list-policies", http.MethodGet, "/v1/policies", "The catalog's policies and what they did"), p.httpList)
	api.Register(a, api.ReadMeta, op("get-policy", http.MethodGet, "/v1/policies/{name}", "One policy, and what it would do now"), p.httpGet)
	api.Register(a, api.Replay, op("enable-policy", http.MethodPost, "/v1/policies/{name}/enable", "Let a policy act; its strikes are forgotten"), p.httpEnable)
	api.Register(a, api.Replay, op("disable-policy", http.MethodPost, "/v1/policies/{name}/disable", "Let a policy act no more; a replay of its goes on"), p.httpDisable)
}

// Get is a policy with the groups that it matches now.
func (p *Policies) Get(ctx context.Context, name string) (*PolicyView, error) {
	pol := p.deps.Catalog.Policies[name]
	if pol == nil {
		return nil, ErrNoPolicy
	}
	v, err := p.view(ctx, pol)
	if err != nil {
		return nil, err
	}
	v.Groups, err = p.matching(ctx, pol, v.Strikes)
	return &v, err
}

// List is every policy of the catalog.
func (p *Policies) List(ctx context.Context) ([]PolicyView, error) {
	list := []PolicyView{}
	for _, name := range p.deps.Catalog.PolicyNames() {
		v, err := p.view(ctx, p.deps.Catalog.Policies[name])
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (p *Policies) view(ctx context.Context, pol *schemas.Policy) (PolicyView, error) {
	v := PolicyView{Policy: pol.Name, Enabled: true, DryRun: pol.DryRun, Action: pol.Action,
		Kind: pol.When.Kind, Class: pol.When.Class, Reason: pol.When.Reason, Message: pol.When.Message}
	err := p.deps.DB.QueryRow(ctx, `select enabled, note, strikes, coalesce(replay, ''), total, acted_at from perdure.policies where policy = $1`, pol.Name).
		Scan(&v.Enabled, &v.Note, &v.Strikes, &v.Replay, &v.Letters, &v.ActedAt)
	if errors.Is(err, pgx.ErrNoRows) { // no replayer has looked at it yet
		return v, nil
	}
	return v, err
}

// Who lets a policy act again says that something has changed: it tries what it
// had given up, and a replay that was cancelled before is not held against it.
const switchPolicy = `
with g as (delete from perdure.policy_groups where policy = $1 and $2)
insert into perdure.policies (policy, enabled, note) values ($1, $2, $3)
on conflict (policy) do update set enabled = $2, note = $3, strikes = 0, told = '', changed_at = clock_timestamp(),
  since = case when $2 then clock_timestamp() else policies.since end,
  judged = policies.judged or $2 and exists (select from perdure.replays r where r.replay = policies.replay and r.state = 'cancelled')`

// Switch lets a policy act, or not, and writes it down.
func (p *Policies) Switch(ctx context.Context, name string, on bool, who, why string) error {
	if p.deps.Catalog.Policies[name] == nil {
		return ErrNoPolicy
	}
	what := map[bool]string{true: "policy.enable", false: "policy.disable"}[on]
	return pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, switchPolicy, name, on, why); err != nil {
			return err
		}
		return note(ctx, tx, who, what, "", why, map[string]any{"policy": name})
	})
}

func (p *Policies) httpList(ctx context.Context, _ *struct{}) (*policiesOutput, error) {
	list, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &policiesOutput{}
	out.Body.Policies = list
	return out, nil
}

func (p *Policies) httpGet(ctx context.Context, in *policyNameInput) (*policyOutput, error) {
	v, err := p.Get(ctx, in.Name)
	if errors.Is(err, ErrNoPolicy) {
		return nil, api.NewProblem(http.StatusNotFound, "no-such-policy", "the catalog has no policy of this name").WithNext("perdure policy ls")
	}
	return &policyOutput{Body: v}, err
}

func (p *Policies) httpEnable(ctx context.Context, in *policyInput) (*policyOutput, error) {
	return p.httpSwitch(ctx, in, true)
}

func (p *Policies) httpDisable(ctx context.Context, in *policyInput) (*policyOutput, error) {
	return p.httpSwitch(ctx, in, false)
}

func (p *Policies) httpSwitch(ctx context.Context, in *policyInput, on bool) (*policyOutput, error) {
	why := ""
	if in.Body != nil {
		why = in.Body.Why
	}
	if err := p.Switch(ctx, in.Name, on, api.Who(ctx), why); err != nil && !errors.Is(err, ErrNoPolicy) {
		return nil, err
	}
	return p.httpGet(ctx, &policyNameInput{in.Name})
}
