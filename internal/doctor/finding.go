package doctor

// What an examination finds.

import (
	"context"
	"time"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/schemas"
)

// Level of a finding.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one thing that was looked at.
type Finding struct {
	Level Level  `json:"level"`
	Part  string `json:"part"` // postgres, redis, kafka, catalog, host
	What  string `json:"what"` // what was found
	Why   string `json:"why,omitempty"`
	Mend  string `json:"mend,omitempty"`
}

// Patient is what is examined.
type Patient struct {
	Config     config.Config
	Catalog    *schemas.Catalog // nil: CatalogErr says why
	CatalogErr error
	Horizon    time.Duration // how long claims remember; 0 = 30 days
}

// perServer bounds the examination of one server.
const perServer = 15 * time.Second

// report collects the findings of one part.
type report struct {
	part     string
	findings []Finding
}

func (r *report) ok(what string) {
	r.findings = append(r.findings, Finding{Level: OK, Part: r.part, What: what})
}

func (r *report) warn(what, why, mend string) {
	r.findings = append(r.findings, Finding{Warn, r.part, what, why, mend})
}

func (r *report) fail(what, why, mend string) {
	r.findings = append(r.findings, Finding{Fail, r.part, what, why, mend})
}

// Examine looks at everything, each server for at most fifteen seconds, and
// returns the findings by part. A server that is away is a finding.
func Examine(ctx context.Context, p Patient) []Finding {
	var all []Finding
	for _, part := range []struct {
		name string
		look func(context.Context, Patient, *report)
	}{
		{"catalog", catalog},
		{"postgres", postgres},
		{"redis", redisServer},
		{"kafka", kafkaCluster},
		{"host", host},
	} {
		ctx, cancel := context.WithTimeout(ctx, perServer)
		r := &report{part: part.name}
		part.look(ctx, p, r)
		cancel()
		all = append(all, r.findings...)
	}
	return all
}

// Worst is the highest level among findings.
func Worst(findings []Finding) Level {
	worst := OK
	for _, f := range findings {
		if f.Level == Fail || f.Level == Warn && worst == OK {
			worst = f.Level
		}
	}
	return worst
}

func catalog(_ context.Context, p Patient, r *report) {
	if p.Catalog == nil {
		r.fail(p.CatalogErr.Error(), "without a catalog no task is accepted and no role starts",
			"write it, or name it with PERDURE_CATALOG; then `perdure catalog check`")
		return
	}
	r.ok(p.Config.Catalog + " is valid")
}
