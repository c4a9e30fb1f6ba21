package service

// Waiting for servers at start: which one, for how long, then giving up.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/config"
)

const (
	// StartWait is how long a process waits for its servers at start.
	StartWait = 60 * time.Second

	firstWord  = 2 * time.Second // before the first message
	probeEvery = 500 * time.Millisecond
	probeBound = 5 * time.Second // of one probe
)

// Server is something a process cannot start without.
type Server struct {
	Name  string // "postgres"
	Addr  string // where it was looked for; no password
	Probe func(context.Context) error
}

// Await returns when every server answers its probe, or after bound with an
// error that names each one that does not and what it said last. While it
// waits, the log says for whom and how much longer. A *config.SetupError, and
// errors for which fatal is true, are not waited out (a wrong password); fatal
// may be nil.
func Await(ctx context.Context, log *slog.Logger, bound time.Duration, fatal func(error) bool, servers ...Server) error {
	deadline := time.Now().Add(bound)
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { errs[i] = awaitOne(ctx, log, deadline, fatal, s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func awaitOne(ctx context.Context, log *slog.Logger, deadline time.Time, fatal func(error) bool, s Server) error {
	started := time.Now()
	said := started.Add(firstWord - 5*time.Second)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		probe, cancel := context.WithTimeout(ctx, min(probeBound, max(time.Until(deadline), time.Second)))
		err := s.Probe(probe)
		cancel()
		switch {
		case err == nil:
			if time.Since(started) > firstWord {
				log.Info("server answers", "server", s.Name, "addr", s.Addr, "waited", time.Since(started).Round(time.Second).String())
			}
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("stopped while waiting for %s at %s: %w", s.Name, s.Addr, err)
		case isRefusal(err), fatal != nil && fatal(err):
			return fmt.Errorf("%s at %s: %w", s.Name, s.Addr, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%s at %s did not answer within %s: %w", s.Name, s.Addr, time.Since(started).Round(time.Second), err)
		}
		if time.Since(said) > 5*time.Second {
			log.Warn("waiting for a server", "server", s.Name, "addr", s.Addr, "gives_up_in", time.Until(deadline).Round(time.Second).String(), "err", err)
			said = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func isRefusal(err error) bool {
	var refused *config.SetupError
	return errors.As(err, &refused)
}
