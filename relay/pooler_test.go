package relay

// A relay behind a transaction pooler.

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestRelayBehindATransactionPoolerHalts(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	pool, err := pg.Pool(t.Context(), testkit.PgBouncer(t, g.url, 4))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := g.relay("a", nil)
	r.deps.DB = pool
	x := g.run(r)
	select {
	case <-time.After(time.Minute):
		t.Fatalf("it goes on: %+v", r.Status())
	case err := <-x.done:
		x.done <- err
		var halted *HaltError
		if !errors.As(err, &halted) || halted.Reason != HaltPooler || !strings.Contains(err.Error(), "PERDURE_POSTGRES_DIRECT_URL") {
			t.Errorf("it ended with %v", err)
		}
	}
	g.run(g.relay("b", nil)) // past the pooler
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
}

// A pooler's refusals have one code, whatever they are about.
func TestOnlyARefusedSettingIsAPoolersFault(t *testing.T) {
	for message, halts := range map[string]bool{
		"unsupported startup parameter: jit": true,
		"pgbouncer cannot connect to server": false,
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return // closed
				}
				b := pgproto3.NewBackend(c, c)
				if _, err := b.ReceiveStartupMessage(); err == nil {
					b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: message})
					_ = b.Flush() // a client that is gone asks again
				}
				c.Close()
			}
		}()
		pool, err := pgxpool.New(t.Context(), "postgres://perdure@"+listener.Addr().String()+"/perdure?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		r := &Relay{deps: Deps{DB: pool}}
		_, err = r.connect(t.Context())
		var halted *HaltError
		if err == nil || errors.As(err, &halted) != halts {
			t.Errorf("%s: %v", message, err)
		}
	}
}
