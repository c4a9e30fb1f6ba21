// Package apiclient is how the command line talks to /v1: one request, its
// answer or its problem. It retries nothing that changes anything, and follows
// no redirect with the token in hand.
package apiclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/perdure/perdure/internal/config"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// Client calls one Perdure API. It may be used concurrently.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New returns a Client for PERDURE_API_URL with PERDURE_API_TOKEN.
func New(cfg config.Config) (*Client, error) {
	if cfg.APIURL == "" {
		return nil, errors.New("no API to talk to: start `perdure up`, or set PERDURE_API_URL to a dispatcher's address")
	}
	base, err := url.Parse(cfg.APIURL)
	if err != nil {
		return nil, fmt.Errorf("PERDURE_API_URL: %w", err)
	}
	return &Client{
		base:  base,
		token: cfg.APIToken,
		http: &http.Client{
			Transport:     http.DefaultTransport.(*http.Transport).Clone(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Path joins segments under /v1, each escaped: an id that a person typed stays
// one segment.
func Path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}

// Get asks for path, which Path made, with query and decodes the answer into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

// Post sends in as JSON (nil: no body) and decodes the answer into out (nil:
// dropped).
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPost, path, nil, in, out)
}

// Patch is Post for a change of what is there.
func (c *Client) Patch(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPatch, path, nil, in, out)
}

// PostLines sends NDJSON and hands each line of the answer to each, which must
// not keep it.
func (c *Client) PostLines(ctx context.Context, path string, lines []byte, each func([]byte) error) error {
	resp, err := c.send(ctx, http.MethodPost, path, nil, "application/x-ndjson", bytes.NewReader(lines))
	if err != nil {
		return err
	}
	return c.lines(resp, http.MethodPost, path, each)
}

// GetLines asks for path with query and hands each line of the answer to each, which must
// not keep it.
func (c *Client) GetLines(ctx context.Context, path string, query url.Values, each func([]byte) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return err
	}
	return c.lines(resp, http.MethodGet, path, each)
}

func (c *Client) lines(resp *http.Response, method, path string, each func([]byte) error) error {
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	if resp.StatusCode/100 != 2 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // a problem cut short says its status
		return problemOf(resp, b)
	}
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			if err := each(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
		}
	}
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	kind, body := "", io.Reader(nil)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		kind, body = "application/json", bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, query, kind, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		return problemOf(resp, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what a Perdure API gives (is PERDURE_API_URL right?): %w", method, path, err)
	}
	return nil
}

// send makes one request; the caller closes the answer's body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, kind string, body io.Reader) (*http.Response, error) {
	u := c.base.JoinPath() // a copy
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	prefix := strings.TrimSuffix(u.Path, "/")
	u.Path, u.RawPath, u.RawQuery = prefix+plain, prefix+path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("Accept", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	return resp, nil
}

// unreachable drops net/http's `Get "http://…"` wrapping, whose address could
// hold a password.
func (c *Client) unreachable(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return awayError{fmt.Errorf("no answer from the API at %s: %w: is `perdure up` or `perdure dispatcher` running there?", c.base.Redacted(), err)}
}

// Problem is an RFC 9457 answer, as the API gives every error.
type Problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail"`
	Errors []Field `json:"errors"`
	Next   string  `json:"next"` // the command that mends it

	RetryAfter time.Duration `json:"-"` // 0 = not said
}

// Field is one wrong place.
type Field struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Name is the last part of the problem's type.
func (p *Problem) Name() string { return p.Type[strings.LastIndexByte(p.Type, ':')+1:] }

// Error tells what is wrong, where, and what to do.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	if p.Detail == "" {
		b.WriteString(p.Title)
	}
	fmt.Fprintf(&b, " (%d %s)", p.Status, p.Name())
	for _, f := range p.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", f.Pointer, f.Detail)
	}
	if p.RetryAfter > 0 {
		fmt.Fprintf(&b, "\n  again: in %s", p.RetryAfter)
	}
	if p.Next != "" {
		fmt.Fprintf(&b, "\n  next: %s", p.Next)
	}
	return b.String()
}

func problemOf(resp *http.Response, body []byte) error {
	p := &Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode)}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && kind == "application/problem+json" {
		if err := json.Unmarshal(body, p); err != nil {
			p.Detail = "the answer's problem could not be read"
		}
	} else {
		p.Type, p.Detail = "not-perdure", "the answer does not come from a Perdure API: is PERDURE_API_URL right?"
	}
	if d, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil {
		p.RetryAfter = d
	}
	return p
}
