package replayer

// Telling people of a failure group by webhook: the notice is a row of the act's
// transaction, and is sent until somebody answers, or so often in vain. Whoever is
// killed between the answer and the row sends it again: at least once.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// Bounds of a notice.
const (
	noticeTries  = 10                  // then it is given up: after about a quarter of an hour
	noticeMost   = 5 * time.Minute     // between two tries
	noticeKept   = 30 * 24 * time.Hour // what is over, or of a policy that tells nobody any more
	noticeTexts  = 500                 // bytes of each text of an error
	noticeSample = `select coalesce(kind, ''), queue, reason, error_class, message from perdure.letters where letter = $1`
)

// NotifyHeader marks a notice; its value is always "group".
const NotifyHeader = "Perdure-Notify"

// notice is what a webhook is told: Standard Webhooks' type, timestamp and data.
type notice struct {
	Type string     `json:"type"`
	At   time.Time  `json:"timestamp"`
	Data noticeData `json:"data"`
}

type noticeData struct {
	Policy     string    `json:"policy"`
	Group      string    `json:"group"`
	Letters    int64     `json:"letters"`
	First      time.Time `json:"first_seen"`
	Last       time.Time `json:"last_seen"`
	Sample     string    `json:"sample"`
	Kind       string    `json:"kind"`
	Queue      string    `json:"queue"`
	Reason     string    `json:"reason"`
	ErrorClass string    `json:"error_class"`
	Message    string    `json:"message"`
	Next       string    `json:"next"`
}

const addNotice = `insert into perdure.policy_notices (notice, policy, fingerprint, body) values ($1, $2, $3, $4)`

// notify writes a notice of a group. The group is left alone until new letters come.
func (p *Policies) notify(ctx context.Context, pol *schemas.Policy, s *standing, g PolicyGroup) error {
	n := notice{Type: "perdure.failure_group", At: time.Now().UTC(), Data: noticeData{
		Policy: pol.Name, Group: g.Group, Letters: g.Letters, First: g.First, Last: g.Last, Sample: g.Sample, Next: "perdure dlq groups " + g.Group}}
	d := &n.Data
	err := p.deps.DB.QueryRow(ctx, noticeSample, g.Sample).Scan(&d.Kind, &d.Queue, &d.Reason, &d.ErrorClass, &d.Message)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("notify of group %s: %w", g.Group, err)
	}
	d.ErrorClass, d.Message = dlq.Clip(d.ErrorClass, noticeTexts), dlq.Clip(d.Message, noticeTexts)
	body, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("notify of group %s: %w", g.Group, err)
	}
	id := "n-" + strings.ToLower(rand.Text()[:12])
	err = pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		if err := p.charge(ctx, tx, pol, s, g, 1, nil); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, addNotice, id, pol.Name, g.Group, body); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, restGroup, pol.Name, g.Group, g.Letters, g.Last, digest(pol)); err != nil {
			return err
		}
		return note(ctx, tx, "policy:"+pol.Name, "policy.notify", "", "", map[string]any{"policy": pol.Name, "group": g.Group, "letters": g.Letters, "notice": id})
	})
	if err != nil {
		return fmt.Errorf("notify of group %s: %w", g.Group, err)
	}
	return nil
}

// A notice that is taken is due again only when its try must be over: no other
// process sends it meanwhile.
const takeNotice = `
update perdure.policy_notices set tries = tries + 1, due_at = clock_timestamp() + $2::interval
where notice = (select notice from perdure.policy_notices where over_at is null and due_at <= clock_timestamp() and policy = any($1::text[])
  order by due_at limit 1 for update skip locked)
returning notice, policy, body, tries, fingerprint`

const pruneNotices = `delete from perdure.policy_notices where over_at < clock_timestamp() - $1::interval
  or over_at is null and made_at < clock_timestamp() - $1::interval`

// deliver sends what is due, until nothing is.
func (p *Policies) deliver(ctx context.Context) error {
	if _, err := p.deps.DB.Exec(ctx, pruneNotices, noticeKept); err != nil {
		return err
	}
	var who []string
	var longest time.Duration
	for _, pol := range p.deps.Catalog.Policies {
		if pol.Action == "notify" {
			who, longest = append(who, pol.Name), max(longest, pol.Notify.Timeout)
		}
	}
	for len(who) > 0 && ctx.Err() == nil {
		var id, name, group string
		var body []byte
		var tries int
		err := p.deps.DB.QueryRow(ctx, takeNotice, who, longest+10*time.Second).Scan(&id, &name, &body, &tries, &group)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		pol := p.deps.Catalog.Policies[name]
		failed, gone := p.post(ctx, pol, id, body)
		if ctx.Err() != nil && failed != "" {
			return nil
		}
		if err := p.told(context.WithoutCancel(ctx), pol, id, group, tries, failed, gone); err != nil {
			return err
		}
	}
	return nil
}

// post makes one try. failed is why nobody took the notice; gone: nobody ever will.
func (p *Policies) post(ctx context.Context, pol *schemas.Policy, id string, body []byte) (failed string, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, pol.Notify.Timeout)
	defer cancel()
	u, err := url.Parse(pol.Notify.URL)
	if err != nil {
		return "its URL cannot be read", true
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	h := http.Header{}
	h.Set("Content-Type", schemas.JSONContentType)
	h.Set("User-Agent", "perdure")
	h.Set(NotifyHeader, "group")
	h["idempotency-key"] = []string{id} //nolint:staticcheck // SA1008: else net/http sends it again by itself
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	if pol.Notify.SecretEnv != "" {
		secret, err := webhook.ParseSecret(p.deps.Getenv(pol.Notify.SecretEnv))
		if err != nil {
			return fmt.Sprintf("secret_env %s %s", pol.Notify.SecretEnv, err), false
		}
		h.Set("Webhook-Signature", webhook.Sign(secret, id, stamp, body))
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
	res, err := p.transport.RoundTrip(req.WithContext(ctx)) // follows no redirect
	if err != nil {
		return err.Error(), false
	}
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again
	_ = res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return "", false
	}
	return fmt.Sprintf("it was answered %d", res.StatusCode), res.StatusCode == http.StatusGone
}

const (
	endNotice = `update perdure.policy_notices set over_at = clock_timestamp(), failed = $2 where notice = $1 and over_at is null`
	putOff    = `update perdure.policy_notices set due_at = clock_timestamp() + $2::interval, failed = $3 where notice = $1 and over_at is null`
	tookIt    = `update perdure.policies set strikes = 0, note = case when told = '' then $2 else note end, changed_at = clock_timestamp() where policy = $1`
	gaveUp    = `update perdure.policies set strikes = strikes + 1, note = $2, enabled = enabled and strikes + 1 < $3, changed_at = clock_timestamp()
from (select enabled as was from perdure.policies where policy = $1 for update) o where policy = $1 returning o.was and not enabled`
)

// told notes what a try came to. A notice that is given up is a strike.
func (p *Policies) told(ctx context.Context, pol *schemas.Policy, id, group string, tries int, failed string, gone bool) error {
	failed = storable(failed)
	if failed != "" && !gone && tries < noticeTries {
		p.notices.WithLabelValues(pol.Name, "failed").Inc()
		p.log.Warn("policy: a notice was not taken; tries again", "policy", pol.Name, "notice", id, "tries", tries, "err", failed)
		_, err := p.deps.DB.Exec(ctx, putOff, id, min(time.Second<<tries, noticeMost), failed)
		return err
	}
	return pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, endNotice, id, failed); err != nil {
			return err
		}
		if failed == "" {
			p.notices.WithLabelValues(pol.Name, "sent").Inc()
			_, err := tx.Exec(ctx, tookIt, pol.Name, "told of group "+group)
			return err
		}
		p.notices.WithLabelValues(pol.Name, "lost").Inc()
		why := fmt.Sprintf("its notice of group %s was given up after %d tries: %s", group, tries, failed)
		p.log.Error("policy: "+why, "policy", pol.Name, "notice", id)
		var off bool
		if err := tx.QueryRow(ctx, gaveUp, pol.Name, why, pol.Strikes).Scan(&off); err != nil {
			return err
		}
		what := "policy.notice-lost"
		if off {
			what = "policy.disable"
		}
		return note(ctx, tx, "perdure", what, "", why, map[string]any{"policy": pol.Name, "group": group, "notice": id})
	})
}

// deliveries delivers until ctx ends.
func (p *Policies) deliveries(ctx context.Context) {
	defer p.transport.CloseIdleConnections()
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for {
		if err := p.deliver(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("policies: cannot send notices now; tries again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
