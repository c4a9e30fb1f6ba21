package main

// Posting, and the handler that the dispatcher is compared with.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/loadtest/run"
)

// control takes a post of one task in a transaction of its own: BEGIN,
// perdure.enqueue, COMMIT.
type control struct{ pool *pgxpool.Pool }

func (c control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var task struct {
		Kind    string          `json:"kind"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.NewDecoder(r.Body).Decode(&task); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var seq int64
	err := pgx.BeginFunc(r.Context(), c.pool, func(tx pgx.Tx) error {
		return tx.QueryRow(r.Context(), `select perdure.enqueue(kind => $1, payload => $2)`, task.Kind, task.Payload).Scan(&seq)
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"id":"main-1-%d","seq":%d,"state":"queued"}`+"\n", seq, seq)
}

// poster posts the same task over connections of its own, with as little work of
// its own as it can.
type poster struct {
	conns []net.Conn
	bytes []byte // of a request
	lines int    // 0: a post of one task
}

func dial(addr string, connections, lines, payload int) (*poster, error) {
	task := `{"kind":"k","payload":` + string(run.NewPayloads(payload, run.Random).Append(nil, 42)) + "}"
	body, contentType := task, "application/json"
	if lines > 0 {
		body, contentType = string(bytes.Repeat([]byte(task+"\n"), lines)), "application/x-ndjson"
	}
	p := &poster{lines: lines}
	p.bytes = fmt.Appendf(nil, "POST /v1/tasks HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", addr, contentType, len(body), body)
	for range connections {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			p.close()
			return nil, err
		}
		p.conns = append(p.conns, c)
	}
	return p, nil
}

func (p *poster) close() {
	for _, c := range p.conns {
		_ = c.Close() // nothing is under way
	}
}

// post keeps every connection busy for d and returns how many tasks were
// accepted. Any other answer is an error.
func (p *poster) post(ctx context.Context, d time.Duration) (int, error) {
	var accepted atomic.Int64
	until := time.Now().Add(d)
	eg, ctx := errgroup.WithContext(ctx)
	for _, c := range p.conns {
		eg.Go(func() error {
			in := bufio.NewReader(c)
			for ctx.Err() == nil && time.Now().Before(until) {
				if _, err := c.Write(p.bytes); err != nil {
					return err
				}
				n, err := p.answer(in)
				if err != nil {
					return err
				}
				accepted.Add(int64(n))
			}
			return ctx.Err()
		})
	}
	err := eg.Wait()
	return int(accepted.Load()), err
}

// answer reads one and returns how many tasks it accepts.
func (p *poster) answer(in *bufio.Reader) (int, error) {
	status, body, err := p.read(in)
	if err != nil {
		return 0, err
	}
	want, right := max(1, p.lines), http.StatusAccepted
	if p.lines > 0 {
		right = http.StatusOK
	}
	if n := bytes.Count(body, []byte(`"id":`)); status != right || n != want {
		return 0, fmt.Errorf("a post was answered %d with %d ids of %d: %.300s", status, n, want, body)
	}
	return want, nil
}

// read is net/http's for a stream of answers. One short answer has a length, and
// reading it that way would be a tenth of what a post costs everybody.
func (p *poster) read(in *bufio.Reader) (status int, body []byte, err error) {
	if p.lines > 0 {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, nil, err
		}
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, body, err
	}
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		const of = "Content-Length: "
		switch {
		case first:
			if len(line) < 12 {
				return 0, nil, fmt.Errorf("an answer begins with %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, nil, fmt.Errorf("an answer begins with %q", line)
			}
		case bytes.HasPrefix(line, []byte(of)):
			if length, err = strconv.Atoi(string(line[len(of):])); err != nil {
				return 0, nil, err
			}
		case len(line) == 0 && length < 0:
			return 0, nil, fmt.Errorf("an answer %d without a length", status)
		case len(line) == 0:
			if body, err = in.Peek(length); err == nil {
				_, err = in.Discard(length)
			}
			return status, body, err
		}
	}
}
