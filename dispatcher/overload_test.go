package dispatcher_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/testkit"
)

// Postgres takes nothing for a while: of what is posted meanwhile only so much waits,
// the rest is refused, and nobody is refused for good.
func TestPostsThatWaitAreBounded(t *testing.T) {
	const most = 1 << 20
	one := strings.Repeat("x", 100<<10)
	for name, post := range map[string]func(s *server, i int) reply{
		"single": func(s *server, i int) reply {
			return s.post(t, strings.NewReader(`{"kind":"any","payload":"`+one+`"}`))
		},
		"keyed": func(s *server, i int) reply {
			return s.post(t, strings.NewReader(`{"kind":"any","payload":"`+one+`"}`), "Idempotency-Key", fmt.Sprint(i))
		},
		"array": func(s *server, i int) reply {
			return s.post(t, strings.NewReader(`[{"kind":"any","payload":"`+one+`"}]`))
		},
		"tiny": func(s *server, i int) reply {
			return s.post(t, strings.NewReader(`{"kind":"any","payload":1}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveWith(t, database(t), nil, dispatcher.Config{}.WithMaxBodies(most))
			var held []*pgxpool.Conn // all there are
			for range s.db.Config().MaxConns {
				c, err := s.db.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, c)
			}
			release := sync.OnceFunc(func() {
				for _, c := range held {
					c.Release()
				}
			})
			defer release()
			room := most / (100 << 10)
			if name == "tiny" {
				room = most / (8 << 10)
			}
			var wg sync.WaitGroup
			refused, accepted := make(chan reply, 1000), make(chan reply, 1000)
			for i := range room + 50 {
				wg.Go(func() {
					if r := post(s, i); r.status == 503 {
						refused <- r
					} else {
						accepted <- r
					}
				})
			}
			for range 50 {
				select {
				case r := <-refused:
					if p := r.problem(t); p.Name() != "overloaded" || r.header.Get("Retry-After") == "" {
						t.Fatalf("%d %v: %s", r.status, r.header, r.body)
					}
				case r := <-accepted:
					t.Fatalf("Postgres takes nothing, and %d: %s", r.status, r.body)
				case <-time.After(time.Minute):
					t.Fatal("a post is neither answered nor refused")
				}
			}
			if n := s.waiting(t); n > most || n < most/2 {
				t.Errorf("%.0f bytes wait", n)
			}
			release()
			wg.Wait()
			for len(accepted) > 0 {
				if r := <-accepted; r.status != 202 {
					t.Errorf("%d: %s", r.status, r.body)
				}
			}
			if r := post(s, 5000); r.status != 202 || s.waiting(t) != 0 {
				t.Errorf("afterwards: %d %s", r.status, r.body)
			}
		})
	}
}

// Many that announce the largest post there is, and send nothing, keep nobody out.
func TestWhatIsAnnouncedDoesNotCount(t *testing.T) {
	s := serve(t, database(t), nil)
	for range 10 {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n[", 32<<20); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := s.waiting(t)
		return n == 10*8<<10, fmt.Sprintf("%.0f bytes wait", n)
	})
	if r := s.post(t, strings.NewReader(`{"kind":"any","payload":1}`)); r.status != 202 {
		t.Errorf("%d: %s", r.status, r.body)
	}
}

// waiting is perdure_dispatcher_waiting_bytes.
func (s *server) waiting(t testing.TB) float64 {
	t.Helper()
	all, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "perdure_dispatcher_waiting_bytes" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("no such metric")
	return 0
}
