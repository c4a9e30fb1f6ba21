package balance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/tracker"
)

// A server that is away gives an error, never a report.
func TestBalanceNeverReportsWithoutAServer(t *testing.T) {
	r := newRig(t)
	r.accept(3)
	r.relay()
	for name, change := range map[string]func(*Deps){
		"claims": func(d *Deps) { d.Claims = away{r.redis} },
		"life":   func(d *Deps) { d.Claims = noLife{r.redis} },
		"bits":   func(d *Deps) { d.Claims = onlyClaims{r.redis} },
		"config": func(d *Deps) { d.Source = "" },
	} {
		deps := r.deps
		change(&deps)
		if _, err := Compute(t.Context(), deps, time.Time{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compute(ctx, r.deps, time.Time{}); err == nil {
		t.Error("cancelled: no error")
	}
}

var errAway = errors.New("connection refused")

type away struct{ *fakeRedis }

func (away) Get(context.Context, ...string) ([]claims.Claim, error) { return nil, errAway }

type noLife struct{ *fakeRedis }

func (noLife) Present(context.Context) (int64, error) { return 0, errAway }

type onlyClaims struct{ *fakeRedis }

func (onlyClaims) DoneBits(context.Context, string, int, int64) ([]byte, error) { return nil, errAway }

// What was accepted earlier is not counted, wherever it is.
func TestBalanceSince(t *testing.T) {
	r := newRig(t)
	old := r.accept(4)
	r.relay()
	r.exec(`update perdure.outbox set created_at = created_at - interval '2 hours'`)
	r.exec(`update perdure.relay_log set relayed_at = relayed_at - interval '2 hours'`)
	r.accept(3)
	r.relay()
	r.accept(2)
	r.redis.bit(old, true)
	rep, err := Compute(t.Context(), r.deps, time.Now().Add(-time.Hour))
	if err != nil || rep.Line() != "accepted=5 completed=0 waiting=5 dead=0 discarded=0 cancelled=0 replayed=0 lost=0" {
		t.Errorf("%s %v", rep.Line(), err)
	}
	if rep := r.compute(); rep.Accepted != 9 {
		t.Errorf("%s", rep.Line())
	}
}

// A record above the low watermark that the commit's metadata calls acknowledged
// is acknowledged: a task that is nowhere else is lost.
func TestBalanceReadsCommitMetadata(t *testing.T) {
	r := newRig(t)
	first := r.accept(4)
	r.relay()
	details, err := r.adm.ListTopics(t.Context(), r.names.Tasks("q"))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tracker.New(0, "", details[r.names.Tasks("q")].ID)
	if err != nil {
		t.Fatal(err)
	}
	for offset := range int64(4) {
		tr.Deliver(offset, 0)
	}
	tr.Ack(0)
	tr.Ack(2)
	c, ok := tr.Commit()
	if !ok || c.Offset != 1 || c.Metadata == "" {
		t.Fatalf("%+v", c)
	}
	r.commit(r.names.WorkerGroup("q"), r.names.Tasks("q"), c.Offset, c.Metadata)
	r.redis.bit(first, true)
	r.redis.bit(first+2, true)
	r.want("accepted=4 completed=2 waiting=2 dead=0 discarded=0 cancelled=0 replayed=0 lost=0")
	r.redis.bit(first+2, false)
	rep := r.want("accepted=4 completed=1 waiting=2 dead=0 discarded=0 cancelled=0 replayed=0 lost=1")
	if len(rep.LostIDs) != 1 || rep.LostIDs[0].ID != id(first+2) {
		t.Errorf("%+v", rep.LostIDs)
	}
}
