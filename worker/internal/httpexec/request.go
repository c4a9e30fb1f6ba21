package httpexec

// The request: body and headers, as the reference of the HTTP executor says.

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Fence is a run as it stands in Perdure-Fence: decimal, 19 digits, so that
// fences compare as strings.
func Fence(run int64) string { return webhook.Fence(run) }

func (e *Executor) request(ctx context.Context, a *execution.Attempt, now time.Time) *http.Request {
	t := a.Task
	h := make(http.Header, 24)
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	contentType := t.ContentType
	if contentType == "" {
		contentType = schemas.JSONContentType
	}
	set("Content-Type", contentType)
	set("User-Agent", "perdure")
	// Not in canonical case: net/http takes a request with an Idempotency-Key for
	// one that it may send again by itself after it was written, and that would
	// be a second run under one fence. On the wire, case means nothing.
	key := t.IdempotencyKey()
	h["idempotency-key"] = []string{key} //nolint:staticcheck // SA1008: on purpose, see above

	// Standard Webhooks.
	stamp := strconv.FormatInt(now.Unix(), 10)
	set("Webhook-Id", key)
	set("Webhook-Timestamp", stamp)
	if e.secret != nil {
		set("Webhook-Signature", webhook.Sign(e.secret, key, stamp, t.Payload))
	}

	// CloudEvents, binary mode.
	set("Ce-Specversion", schemas.SpecVersion)
	set("Ce-Id", t.ID)
	set("Ce-Source", schemas.SourcePrefix+source(t.ID))
	set("Ce-Type", t.Kind)
	set("Ce-Time", rfc3339(t.Time))
	set("Ce-Partitionkey", webhook.Quote(t.Key))
	set("Ce-Dataschema", t.DataSchema)
	set("Ce-Expirytime", rfc3339(t.Deadline))
	set("Ce-Traceparent", t.TraceParent)
	for header, value := range t.Headers {
		if name, ok := schemas.ExtensionName(header); ok {
			set(http.CanonicalHeaderKey("Ce-"+name), webhook.Quote(value))
		}
	}
	for _, hop := range []string{"traceparent", "tracestate", "baggage"} {
		set(http.CanonicalHeaderKey(hop), webhook.Quote(t.Headers[hop]))
	}
	if h.Get("Traceparent") == "" {
		set("Traceparent", t.TraceParent)
	}

	set("Perdure-Attempt", strconv.Itoa(a.N))
	set("Perdure-Fence", Fence(a.Run))
	left := execution.Timeout(a, now)
	if d, ok := ctx.Deadline(); ok {
		left = min(left, d.Sub(now))
	}
	set("Perdure-Timeout", strconv.FormatFloat(max(left, 0).Seconds(), 'f', 3, 64))
	set("Perdure-Deadline", rfc3339(t.Deadline))

	req := &http.Request{
		Method: http.MethodPost, URL: e.url, Host: e.url.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(t.Payload)),
		Body:          io.NopCloser(bytes.NewReader(t.Payload)),
		// Lets the transport take another connection if an idle one turns out to
		// be closed before anything was written.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(t.Payload)), nil },
	}
	return req.WithContext(ctx)
}

func source(id string) string {
	parsed, err := schemas.ParseID(id)
	if err != nil {
		return ""
	}
	return parsed.Source
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
