package stage

// The kinds of a load test, and the endpoint of the one that goes over HTTP.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/schemas"
)

const queue = "load"

const catalogText = `version: 1
queues:
  %[1]s: {partitions: %[2]d}
kinds:
  %[3]s: {queue: %[1]s}
  %[4]s: {queue: %[1]s, timeout: 30s}
  %[5]s: {queue: %[1]s, executor: {http: {url: "%[6]s"}}}
`

// writeCatalog declares the kinds.
func (s *Stage) writeCatalog(context.Context) error {
	text := fmt.Sprintf(catalogText, queue, s.opts.Load.Partitions,
		run.KindName(run.Noop), run.KindName(run.Sleep), run.KindName(run.HTTP), s.hook)
	s.cfg.Catalog = filepath.Join(s.dir, "catalog.yaml")
	if err := os.WriteFile(s.cfg.Catalog, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the load test's catalog: %w", err)
	}
	cat, err := schemas.LoadCatalog(s.cfg.Catalog)
	if err != nil {
		return fmt.Errorf("the load test's catalog: %w", err)
	}
	s.catalog = cat
	return nil
}

// startHook serves the HTTP kind: it notes the payload and says 204.
func (s *Stage) startHook(context.Context) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start the HTTP kind's endpoint: %w", err)
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = s.opts.Begin(body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	s.later(func() error {
		err := srv.Close()
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	})
	s.hook = "http://" + ln.Addr().String()
	return nil
}
