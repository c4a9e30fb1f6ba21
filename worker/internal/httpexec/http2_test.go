package httpexec

// Connections: HTTP/2 over TLS, how many there are, and what becomes of one that
// falls silent.

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// endpoint is a server that counts its connections.
type endpoint struct {
	*httptest.Server
	conns atomic.Int64
}

func newEndpoint(t *testing.T, tls bool, h http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{Server: httptest.NewUnstartedServer(h)}
	e.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.conns.Add(1)
		}
	}
	if e.EnableHTTP2 = tls; tls {
		e.StartTLS()
	} else {
		e.Start()
	}
	t.Cleanup(func() {
		e.CloseClientConnections()
		e.Close()
	})
	return e
}

// caller returns an executor of the endpoint at url, and its transport.
func (e *endpoint) caller(t *testing.T, url string) (*Executor, *http.Transport) {
	t.Helper()
	tr := webhook.NewTransport(16)
	if e.TLS != nil {
		roots := x509.NewCertPool()
		roots.AddCert(e.Certificate())
		tr.TLSClientConfig = e.Client().Transport.(*http.Transport).TLSClientConfig.Clone() //nolint:errcheck // httptest's client has one
		tr.TLSClientConfig.RootCAs, tr.TLSClientConfig.NextProtos = roots, nil
	}
	t.Cleanup(tr.CloseIdleConnections)
	x, err := New(&schemas.Kind{Name: "k", Timeout: time.Minute, HTTP: &schemas.HTTPExecutor{URL: url}}, tr, nil)
	if err != nil {
		t.Fatal(err)
	}
	return x, tr
}

func call(ctx context.Context, x *Executor, payload string) execution.Result {
	return x.Execute(ctx, &execution.Attempt{Task: &schemas.Task{ID: "main-1-7", Kind: "k", Payload: []byte(payload)}, Kind: x.kind, N: 1, Run: 1})
}

func TestOneHTTP2ConnectionCarriesManyAttempts(t *testing.T) {
	var protos sync.Map
	var running atomic.Int64
	all := make(chan struct{})
	e := newEndpoint(t, true, func(_ http.ResponseWriter, r *http.Request) {
		protos.Store(r.Proto, true)
		if body, _ := io.ReadAll(r.Body); string(body) == "first" {
			return
		}
		if running.Add(1) == 30 {
			close(all)
		}
		<-all // none ends before all have come
	})
	x, _ := e.caller(t, e.URL)
	if r := call(t.Context(), x, "first"); r.Outcome != execution.Completed {
		t.Fatalf("%+v", r)
	}
	var done sync.WaitGroup
	for range 30 {
		done.Go(func() {
			if r := call(t.Context(), x, "more"); r.Outcome != execution.Completed {
				t.Errorf("%+v", r)
			}
		})
	}
	done.Wait()
	if _, h1 := protos.Load("HTTP/1.1"); h1 || e.conns.Load() != 1 {
		t.Errorf("%d connections, HTTP/1.1 among them: %v; want one, of HTTP/2", e.conns.Load(), h1)
	}
}

func TestCancellationEndsOneHTTP2StreamAndNoOther(t *testing.T) {
	began, closed, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
	e := newEndpoint(t, true, func(_ http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "stays" {
			began <- struct{}{}
			<-end
			return
		}
		began <- struct{}{}
		<-r.Context().Done()
		close(closed)
	})
	x, _ := e.caller(t, e.URL)
	stays := make(chan execution.Result, 1)
	go func() { stays <- call(t.Context(), x, "stays") }()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	goes := make(chan execution.Result, 1)
	go func() { goes <- call(ctx, x, "goes") }()
	<-began
	cancel()
	<-closed // the endpoint is told
	if r := <-goes; r.Class != "cancelled" {
		t.Errorf("the cancelled one: %+v", r)
	}
	close(end)
	if r := <-stays; r.Outcome != execution.Completed || e.conns.Load() != 1 {
		t.Errorf("its neighbour on the connection: %+v, %d connections", r, e.conns.Load())
	}
}

func TestHTTP1ConnectionsAreKept(t *testing.T) {
	const at = 16
	var round sync.WaitGroup
	e := newEndpoint(t, false, func(http.ResponseWriter, *http.Request) {
		round.Done()
		round.Wait() // all are here at once
	})
	x, _ := e.caller(t, e.URL)
	for range 3 {
		round.Add(at)
		var done sync.WaitGroup
		for range at {
			done.Go(func() {
				if r := call(t.Context(), x, ""); r.Outcome != execution.Completed {
					t.Errorf("%+v", r)
				}
			})
		}
		done.Wait()
	}
	if n := e.conns.Load(); n != at {
		t.Errorf("%d connections for three rounds of %d", n, at)
	}
}

// wire passes bytes on until it is cut: then they vanish, and nobody is told.
type wire struct {
	net.Listener
	cut atomic.Bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: ln}
	var conns []net.Conn
	var copies sync.WaitGroup
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			conns = append(conns, in, out)
			dead := &atomic.Bool{}
			if len(conns) == 2 {
				dead = &w.cut // only the first connection is ever cut
			}
			pass := func(to io.Writer, from io.Reader) {
				buf := make([]byte, 4096)
				for {
					n, err := from.Read(buf)
					if err != nil {
						return
					}
					if !dead.Load() {
						_, _ = to.Write(buf[:n])
					}
				}
			}
			copies.Go(func() { pass(out, in) })
			copies.Go(func() { pass(in, out) })
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-accepted
		for _, c := range conns {
			_ = c.Close()
		}
		copies.Wait()
	})
	return w
}

func TestASilentHTTP2ConnectionIsGivenUp(t *testing.T) {
	e := newEndpoint(t, true, func(http.ResponseWriter, *http.Request) {})
	w := newWire(t, e.Listener.Addr().String())
	x, tr := e.caller(t, (&url.URL{Scheme: "https", Host: w.Addr().String()}).String())
	if tr.HTTP2 == nil || tr.HTTP2.SendPingTimeout <= 0 || tr.HTTP2.SendPingTimeout > 15*time.Second || tr.HTTP2.PingTimeout <= 0 {
		t.Fatalf("no sign of life is asked for: %+v", tr.HTTP2)
	}
	tr.HTTP2.SendPingTimeout, tr.HTTP2.PingTimeout = 50*time.Millisecond, 50*time.Millisecond
	if r := call(t.Context(), x, ""); r.Outcome != execution.Completed {
		t.Fatalf("%+v", r)
	}
	w.cut.Store(true)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		r := call(ctx, x, "")
		return r.Outcome == execution.Completed, r.Message
	})
	if n := e.conns.Load(); n != 2 {
		t.Errorf("%d connections, want a second one", n)
	}
}
