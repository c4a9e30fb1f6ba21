package httpexec

// What an answer, or the lack of one, means: the table of the reference.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	maxMessage     = dlq.MaxMessage // bytes of a body that become the error's message
	maxProblem     = 64 << 10       // bytes of a problem document that are read
	maxRetryAfter  = 24 * time.Hour // a larger Retry-After is a mistake, not a wish
	maxFingerprint = 200            // bytes of Perdure-Fingerprint
)

// judge reads an answer.
func (e *Executor) judge(res *http.Response, body []byte) execution.Result {
	outcome := e.table(res)
	if outcome == execution.Completed || outcome == execution.Elsewhere {
		return execution.Result{Outcome: outcome}
	}
	r := execution.Result{Outcome: outcome, Class: "HTTP " + strconv.Itoa(res.StatusCode)}
	r.Message = strings.TrimSpace(dlq.ClipMessage(string(body)))
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		r.Message = fmt.Sprintf("answered %s: redirects are not followed; write the final URL into the catalog", res.Status)
	default:
		readProblem(res, body, &r)
	}
	if r.Message == "" {
		r.Message = res.Status
	}
	r.Fingerprint = fingerprint(res)
	if outcome == execution.Retry {
		r.After = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return r
}

// table is what a status means, the kind's own responses first.
func (e *Executor) table(res *http.Response) execution.Outcome {
	s := res.StatusCode
	switch e.kind.HTTP.Responses[s] {
	case "completed":
		return execution.Completed
	case "retry":
		return execution.Retry
	case "permanent":
		return execution.Permanent
	}
	once := e.kind.Effects == schemas.EffectsOnce
	switch {
	case s == http.StatusAccepted:
		return execution.Elsewhere
	case s >= 200 && s < 300:
		return execution.Completed
	case s == http.StatusConflict:
		// Another request with this Idempotency-Key is at work, or was: only the
		// endpoint can say which.
		if strings.EqualFold(res.Header.Get("Perdure-Outcome"), string(schemas.OutcomeCompleted)) {
			return execution.Completed
		}
		return execution.Again
	case s == 401, s == 403, s == 404, s == 405, s == 407, s == 421, s == 501:
		return execution.Misconfigured
	case s == http.StatusTooEarly, s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		return execution.Retry
	case s == http.StatusRequestTimeout, s >= 500:
		if once {
			return execution.Unknown
		}
		return execution.Retry
	default: // 1xx cannot come here; 3xx, 410, other 4xx
		return execution.Permanent
	}
}

// judgeError reads the lack of an answer. begun: headers were written, so the
// endpoint may have acted.
func (e *Executor) judgeError(ctx context.Context, err error, begun bool) execution.Result {
	r := execution.Result{Outcome: execution.Retry, Class: errorClass(err), Message: e.host() + ": " + err.Error()}
	var dns *net.DNSError
	switch {
	case begun:
		if e.kind.Effects == schemas.EffectsOnce {
			r.Outcome = execution.Unknown
		}
	case errors.Is(err, webhook.ErrForbiddenAddress):
		r.Outcome, r.Class = execution.Misconfigured, "forbidden address"
	case errors.As(err, &dns):
		r.Outcome, r.Class = execution.Misconfigured, "DNS"
	case isTLS(err):
		r.Outcome, r.Class = execution.Misconfigured, "TLS"
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		r.Class, r.Message = "timeout", e.host()+" did not answer in time"
	case ctx.Err() != nil:
		r.Class = "cancelled"
	}
	return r
}

func isTLS(err error) bool {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		alert  tls.AlertError
		host   x509.HostnameError
		ca     x509.UnknownAuthorityError
		cert   x509.CertificateInvalidError
	)
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &host) || errors.As(err, &ca) || errors.As(err, &cert) ||
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// errorClass names a network error without its addresses.
func errorClass(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	name := reflect.TypeOf(err).String()
	if name == "*errors.errorString" || name == "syscall.Errno" {
		return err.Error()
	}
	return name
}

func isProblem(res *http.Response) bool {
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && media == "application/problem+json"
}

// readProblem takes class and message from an RFC 9457 body.
func readProblem(res *http.Response, body []byte, r *execution.Result) {
	if !isProblem(res) {
		return
	}
	var p struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &p) != nil {
		return
	}
	if p.Type != "" && p.Type != "about:blank" {
		r.Class = p.Type
	}
	switch {
	case p.Detail != "":
		r.Message = p.Detail
	case p.Title != "":
		r.Message = p.Title
	}
}

// fingerprint is the endpoint's own name of the failure's cause (Perdure-Fingerprint),
// as worker.Fingerprint is a handler's: bounded, without what a header should not hold.
func fingerprint(res *http.Response) string {
	s := strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, res.Header.Get("Perdure-Fingerprint"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxFingerprint {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:maxFingerprint], ""))
	}
	return s
}

// retryAfter reads seconds or an HTTP date; 0 = none that makes sense.
func retryAfter(s string, now time.Time) time.Duration {
	if s == "" {
		return 0
	}
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return min(max(time.Duration(n)*time.Second, 0), maxRetryAfter)
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
