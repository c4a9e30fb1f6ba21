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
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	want, status := max(1, p.lines), http.StatusAccepted
	if p.lines > 0 {
		status = http.StatusOK
	}
	if n := bytes.Count(body, []byte(`"id":`)); res.StatusCode != status || n != want {
		return 0, fmt.Errorf("a post was answered %s with %s ids of %d: %.300s", res.Status, strconv.Itoa(n), want, body)
	}
	return want, nil
}
