package replayer

// GET /v1/replays/{id}/report: what a note about an incident needs of a replay, in
// one answer: the causes, the counts, who did what, and where the audit stands.

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
)

// Report is a replay with its causes and acts.
type Report struct {
	Replay Replay        `json:"replay"`
	Causes []ReportCause `json:"causes" doc:"what the letters had died of, most letters first; at most 20"`
	Gone   int64         `json:"gone,omitempty" doc:"letters that have left the index, so that their cause is no longer known"`
	Acts   []ReportAct   `json:"acts" doc:"who did what, in the order of the first time; at most 200"`
	Audit  ReportAudit   `json:"audit"`
}

// ReportCause is a failure group that the replay's letters were of.
type ReportCause struct {
	Group      string    `json:"group"`
	Letters    int64     `json:"letters" doc:"of this replay"`
	ErrorClass string    `json:"error_class,omitempty" doc:"of one letter"`
	Message    string    `json:"message,omitempty" doc:"of one letter"`
	FirstDied  time.Time `json:"first_died"`
	LastDied   time.Time `json:"last_died"`
	Owner      string    `json:"owner,omitempty"`
	Note       string    `json:"note,omitempty"`
	Runbook    string    `json:"runbook,omitempty"`
}

// ReportAct is an act that one did, once or again.
type ReportAct struct {
	Who   string    `json:"who"`
	What  string    `json:"what"`
	Why   string    `json:"why,omitempty"`
	Times int64     `json:"times"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// ReportAudit is where the audit stood at the replay's last act.
type ReportAudit struct {
	Rows int64  `json:"rows" doc:"of this replay"`
	From int64  `json:"from" doc:"place of the first"`
	To   int64  `json:"to" doc:"place of the last"`
	Hash string `json:"hash" doc:"of the last, which holds all rows before it"`
}

const (
	reportCauses = `
select c.fingerprint, c.n, s.error_class, s.message, c.first_died, c.last_died, coalesce(g.owner, ''), coalesce(g.note, ''), coalesce(g.runbook, '')
from (
  select d.fingerprint, count(*) as n, min(d.died_at) as first_died, max(d.died_at) as last_died, min(d.letter) as sample
  from perdure.replay_letters r cross join lateral (select fingerprint, died_at, letter from perdure.letter_states where letter = r.letter offset 0) d where r.replay = $1
  group by d.fingerprint order by 2 desc, 1 limit 20) c
join perdure.letters s on s.letter = c.sample
left join perdure.failure_groups g on g.fingerprint = c.fingerprint
order by c.n desc, c.fingerprint`
	reportGone = `
select count(*) from perdure.replay_letters r
where r.replay = $1 and not exists (select from perdure.letters d where d.letter = r.letter)`
	reportActs = `
select who, what, why, count(*), min(at), max(at) from perdure.audit where replay = $1
group by who, what, why order by min(place) limit 200`
	reportAudit = `
select count(*), coalesce(min(place), 0), coalesce(max(place), 0), coalesce((array_agg(hash order by place desc))[1], '')
from perdure.audit where replay = $1`
)

// Report returns what is to be told of a replay, all of one moment. The error is
// ErrNoReplay if there is none.
func (j *Jobs) Report(ctx context.Context, id string) (*Report, error) {
	r, err := j.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	p := &Report{Replay: *r}
	err = pgx.BeginTxFunc(ctx, j.db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, reportCauses, plannedEachTime, id)
		if err != nil {
			return err
		}
		if p.Causes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ReportCause]); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, reportGone, id).Scan(&p.Gone); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, reportActs, id); err != nil {
			return err
		}
		if p.Acts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ReportAct]); err != nil {
			return err
		}
		a := &p.Audit
		return tx.QueryRow(ctx, reportAudit, id).Scan(&a.Rows, &a.From, &a.To, &a.Hash)
	})
	if err != nil {
		return nil, fmt.Errorf("report of replay %s: %w", id, err)
	}
	return p, nil
}

type reportOutput struct{ Body *Report }

func (j *Jobs) reportRoute(a *api.API) {
	api.Register(a, api.ReadMeta, huma.Operation{
		OperationID: "report-replay", Method: http.MethodGet, Path: "/v1/replays/{id}/report", Tags: []string{"replays"},
		Summary: "What a note about the incident needs: causes, counts, who did what, the audit's hash",
	}, j.httpReport)
}

func (j *Jobs) httpReport(ctx context.Context, in *replayInput) (*reportOutput, error) {
	p, err := j.Report(ctx, in.ID)
	if err != nil {
		return nil, problem(err)
	}
	return &reportOutput{Body: p}, nil
}
