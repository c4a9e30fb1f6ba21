package dispatcher_test

// NDJSON that is larger than what the server may hold, and comes faster than it may
// be taken.

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/testkit"
)

// largeLine has 4 KiB, so that it is bytes that fill something and not rows.
var largeLine = func() string {
	const head, tail = `{"kind":"any","payload":"`, "\"}\n"
	return head + strings.Repeat("x", 4<<10-len(head)-len(tail)) + tail
}()

// sender posts largeLine again and again over a connection of its own.
type sender struct {
	t     *testing.T
	conn  net.Conn
	total int
	sent  int
}

func (s *server) sender(t *testing.T, lines int) *sender {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &sender{t: t, conn: conn, total: lines * len(largeLine)}
	fmt.Fprintf(conn, "POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n", tokenA, p.total)
	return p
}

// narrow keeps the client's own socket from taking much.
func (p *sender) narrow() {
	p.t.Helper()
	if err := p.conn.(*net.TCPConn).SetWriteBuffer(64 << 10); err != nil {
		p.t.Fatal(err)
	}
}

// send writes up to a length of the post, and says whether nothing went within patience.
func (p *sender) send(upto int, patience time.Duration) (stuck bool) {
	p.t.Helper()
	many := strings.Repeat(largeLine, 16)
	for upto = min(upto, p.total); p.sent < upto; {
		if err := p.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			p.t.Fatal(err)
		}
		part := many[p.sent%len(largeLine):]
		n, err := p.conn.Write([]byte(part[:min(len(part), upto-p.sent)]))
		p.sent += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && n == 0:
			return true
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			p.t.Fatalf("after %d bytes: %v", p.sent, err)
		}
	}
	return false
}

// answers counts the accepted lines, and fails for any other.
func (p *sender) answers() (n int) {
	p.t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(p.conn), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	for ; in.Scan(); n++ {
		if !strings.Contains(in.Text(), `"state":"queued"`) {
			p.t.Fatalf("line %d: %s", n, in.Text())
		}
	}
	if err := in.Err(); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// peakHeap watches the heap until it is asked for the most that it had beyond now's.
func peakHeap() func() int {
	read := func() uint64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	runtime.GC()
	base, peak := read(), uint64(0)
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-over:
				tick.Stop()
				return
			case <-tick.C:
				peak = max(peak, read())
			}
		}
	}()
	return func() int {
		close(over)
		<-done
		return int(max(peak, base) - base)
	}
}

func TestAStreamStaysSmall(t *testing.T) { streamStaysSmall(t, 32<<20, 24<<20) }

// streamStaysSmall has a client that takes no answer before it has sent everything:
// neither what comes nor what goes may pile up. Its own memory counts too, and is small.
func streamStaysSmall(t *testing.T, size, bound int) {
	s := serveWith(t, database(t), limited(t, "streams: 5"), dispatcher.Config{})
	lines := size / len(largeLine)
	peak := peakHeap()
	began := time.Now()
	p := s.sender(t, lines)
	if p.send(p.total, time.Minute) {
		t.Fatalf("stuck after %d bytes", p.sent)
	}
	if n := p.answers(); n != lines {
		t.Errorf("%d of %d lines were accepted", n, lines)
	}
	most := peak()
	t.Logf("%d MiB in %d lines, %v: the heap had %.1f MiB at most", size>>20, lines, time.Since(began).Round(time.Millisecond), float64(most)/(1<<20))
	if most > bound {
		t.Errorf("the heap had %d MiB, want %d at most", most>>20, bound>>20)
	}
	if n := outbox(t, s.db); n != lines {
		t.Errorf("%d tasks, want %d", n, lines)
	}
}

// heldBack is what a client may get rid of before its writes block: what the server's
// socket takes, and what it reads ahead.
const heldBack = 4 << 20

func TestAClosedGateHoldsTheClientBack(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "streams: 5"), dispatcher.Config{OutboxLimit: 10_000}.WithWaits(time.Hour, 0))
	p := s.sender(t, 2*heldBack/len(largeLine))
	p.narrow()
	p.send(len(largeLine), time.Minute) // a stream that has begun
	testkit.Eventually(t, time.Minute, func() (bool, string) { return outbox(t, s.db) == 1, "the first line is not accepted" })
	if _, err := s.db.Exec(t.Context(), `select perdure.enqueue(kind => 'any', payload => '1') from generate_series(2, 10000)`); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) { return s.gauge(t, "perdure_dispatcher_admission_closed") == 1, "not closed" })
	if !p.send(p.total, time.Second) || p.sent > heldBack {
		t.Fatalf("%d of %d bytes went although the gate is closed", p.sent, p.total)
	}
	t.Logf("the client was held back after %.1f MiB", float64(p.sent)/(1<<20))
	if n := outbox(t, s.db); n != 10_000 {
		t.Errorf("%d tasks while the gate is closed, want 10,000", n)
	}
	relayed(t, s.db, 0)
	if p.send(p.total, time.Minute) {
		t.Fatalf("stuck after %d of %d bytes although the gate is open", p.sent, p.total)
	}
	if n := p.answers(); n != p.total/len(largeLine) {
		t.Errorf("%d of %d lines were accepted", n, p.total/len(largeLine))
	}
}

func TestARateThatIsUsedUpHoldsTheClientBack(t *testing.T) {
	s := serveWith(t, database(t), limited(t, "rate: 1/s, burst: 10"), dispatcher.Config{})
	p := s.sender(t, 2*heldBack/len(largeLine))
	p.narrow()
	if !p.send(p.total, 700*time.Millisecond) || p.sent > heldBack {
		t.Fatalf("%d of %d bytes went at a line a second", p.sent, p.total)
	}
	t.Logf("the client was held back after %.1f MiB, with %d lines accepted", float64(p.sent)/(1<<20), outbox(t, s.db))
}
