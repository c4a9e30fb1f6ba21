package app

// A process's HTTP address: health and metrics for all, /v1 for a dispatcher.

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/service"
)

// prepare does what every role begins with: the catalog, the address, health
// endpoints that answer while it waits, its name, its servers. withAPI says that
// the address will serve /v1.
func (p *process) prepare(ctx context.Context, n need, withAPI bool) error {
	if err := p.loadCatalog(); err != nil {
		return err
	}
	var tokens *api.Tokens
	if withAPI {
		var err error
		if tokens, err = p.tokens(); err != nil {
			return err
		}
	}
	if err := p.listen(tokens, withAPI); err != nil {
		return err
	}
	if err := p.takeInstance(); err != nil {
		return err
	}
	return p.connect(ctx, n)
}

// tokens reads the token file and refuses to serve the API to a network
// without one. Both are mistakes in how the process was called: exit 2.
func (p *process) tokens() (*api.Tokens, error) {
	tokens, err := api.LoadTokens(p.cfg.APITokensFile)
	if err != nil {
		return nil, exit.Usage(err)
	}
	if p.cfg.HTTPAddr == "" {
		p.cfg.HTTPAddr = loopbackAddr(portHTTP)
	}
	if err := api.CheckListenAddr(p.cfg.HTTPAddr, tokens); err != nil {
		return nil, exit.Usage(err)
	}
	return tokens, nil
}

// listen opens the address and serves at once, so that /healthz answers while
// the process still waits for its servers. /v1 says 503 until the routes are
// there.
func (p *process) listen(tokens *api.Tokens, withAPI bool) error {
	ln, err := service.Listen(p.cfg.HTTPAddr)
	if err != nil {
		return err
	}
	p.addr = ln.Addr().(*net.TCPAddr) // Listen opens TCP
	p.log.Info("listening", "addr", p.addr.String())
	if withAPI {
		p.api = api.New(p.mux, p.version, tokens, p.log)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- service.Serve(ctx, ln, p, p.log) }()
	p.group.Close("http", func() error {
		cancel()
		return <-served
	})
	return nil
}

// ServeHTTP answers health at any time, and everything else while the parts
// run: before, routes are still being registered; after, what they use closes.
func (p *process) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		p.healthMux.ServeHTTP(w, r)
		return
	}
	if p.api == nil {
		http.NotFound(w, r)
		return
	}
	ctx, done, ok := p.requests.begin(r.Context())
	if !ok {
		api.WriteProblem(w, api.NewProblem(http.StatusServiceUnavailable, "unavailable", "this process is starting or stopping; nothing was accepted").
			WithRetryAfter(time.Second).WithNext("curl http://"+r.Host+"/readyz"))
		return
	}
	defer done()
	p.api.ServeHTTP(w, r.WithContext(ctx))
}

// url is where the API is found from this host.
func (p *process) url() string {
	host := p.addr.IP.String()
	if p.addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(p.addr.Port))
}
