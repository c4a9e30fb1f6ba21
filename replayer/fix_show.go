package replayer

// What a fixer did: a plan's first letters before and after it, and what was
// replayed in place of a letter's payload.

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jsondiff"
)

// Fix is a payload before and after a fixer.
type Fix struct {
	Letter       string          `json:"letter"`
	Repair       int             `json:"repair" doc:"how often the task was repaired, this time included: its idempotency key is <task id>-r<repair>"`
	Replayed     bool            `json:"replayed" doc:"false: so it would be; nothing moved"`
	Before       json.RawMessage `json:"before,omitempty" doc:"the letter's payload, if it is JSON"`
	BeforeBase64 []byte          `json:"before_base64,omitempty" doc:"if it is not JSON"`
	After        json.RawMessage `json:"after,omitempty"`
	AfterBase64  []byte          `json:"after_base64,omitempty"`
	Large        bool            `json:"large,omitempty" doc:"before and after are left out: they are larger than 64 KiB"`
	Diff         string          `json:"diff" doc:"unified diff of both as indented JSON; long ones are cut"`
}

// Samples is how many letters of a plan are shown before and after its fixer.
const Samples = 5

// largeFix is from which size on payloads are not shown whole, in bytes.
const largeFix = 64 << 10

const addSamples = `
insert into perdure.replay_fixes (replay, n, letter, payload, repair, moved)
select $1, u.n, u.letter, u.payload, u.repair, false from unnest($2::bigint[], $3::text[], $4::bytea[], $5::int[]) u(n, letter, payload, repair)
order by u.n limit greatest($6 - (select count(*) from perdure.replay_fixes where replay = $1), 0)
on conflict do nothing`

// sample keeps the first repaired letters of a plan.
func (r *Replayer) sample(ctx context.Context, j *job, list []letter) error {
	var ns []int64
	var ids []string
	var payloads [][]byte
	var repairs []int32
	for i := range list {
		if l := &list[i]; l.why == "" && l.fixed != nil && len(ns) < Samples {
			ns, ids, payloads, repairs = append(ns, l.n), append(ids, l.id), append(payloads, l.fixed), append(repairs, int32(l.row.repairs))
		}
	}
	if len(ns) == 0 {
		return nil
	}
	if _, err := r.deps.DB.Exec(ctx, addSamples, j.id, ns, ids, payloads, repairs, Samples); err != nil {
		return fmt.Errorf("keep samples of what the fixer makes: %w", err)
	}
	return nil
}

// Fixes returns what the fixer made of a replay's first letters.
func (j *Jobs) Fixes(ctx context.Context, replay string) ([]Fix, error) {
	rows, err := j.db.Query(ctx, `select f.letter, f.repair, f.moved, d.payload, f.payload
from perdure.replay_fixes f left join perdure.letters d on d.letter = f.letter where f.replay = $1 order by f.n limit $2`, replay, Samples)
	if err != nil {
		return nil, fmt.Errorf("replay %s: read repairs: %w", replay, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Fix, err error) {
		var before, after []byte
		if err := row.Scan(&f.Letter, &f.Repair, &f.Replayed, &before, &after); err != nil {
			return f, err
		}
		if before != nil { // else the letter has left the index
			f.Diff = jsondiff.Lines(before, after)
		}
		if f.Large = len(before) > largeFix || len(after) > largeFix; !f.Large {
			f.Before, f.BeforeBase64 = jsonOrNot(before)
			f.After, f.AfterBase64 = jsonOrNot(after)
		}
		return f, nil
	})
	if err != nil {
		return nil, fmt.Errorf("replay %s: read repairs: %w", replay, err)
	}
	return list, nil
}

func jsonOrNot(b []byte) (json.RawMessage, []byte) {
	if json.Valid(b) {
		return b, nil
	}
	return nil, b
}

// withFixes adds to a replay what its fixer made, for those who may read payloads.
func (j *Jobs) withFixes(ctx context.Context, r *Replay) error {
	if r.Spec.Fixer == nil {
		return nil
	}
	if !api.Can(ctx, api.ReadPayload) {
		r.Hidden = true
		return nil
	}
	var err error
	r.Fixes, err = j.Fixes(ctx, r.ID)
	return err
}
