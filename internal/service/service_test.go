package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.DiscardHandler)

// journal notes what happened in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

// untilStopped is a part that notes its end, after making sure that nobody
// else had the time to end before it by chance.
func (j *journal) untilStopped(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		j.note("stop " + name)
		return nil
	}
}

func TestPartsStopInReverse(t *testing.T) {
	var j journal
	g := service.NewGroup(silent)
	g.Close("pool", func() error { j.note("close pool"); return nil })
	g.Add("relay", j.untilStopped("relay"))
	g.Close("client", func() error { j.note("close client"); return nil })
	g.Add("worker", j.untilStopped("worker"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"stop worker", "close client", "stop relay", "close pool"}
	if !slices.Equal(j.lines, want) {
		t.Errorf("order %q, want %q", j.lines, want)
	}
}

func TestAFailingPartStopsAllAndIsTheError(t *testing.T) {
	var j journal
	boom := errors.New("boom")
	g := service.NewGroup(silent)
	g.Add("relay", j.untilStopped("relay"))
	g.Add("worker", func(context.Context) error { return boom })
	g.Close("client", func() error { return errors.New("cannot close") })
	err := g.Run(t.Context())
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "worker: boom") || !strings.Contains(err.Error(), "cannot close") {
		t.Errorf("got %v", err)
	}
	if strings.Count(err.Error(), "boom") != 1 {
		t.Errorf("the cause is told twice: %v", err)
	}
	if !slices.Equal(j.lines, []string{"stop relay"}) {
		t.Errorf("got %q", j.lines)
	}
}

func TestAPartThatEndsByItselfIsAnError(t *testing.T) {
	g := service.NewGroup(silent)
	g.Add("worker", func(context.Context) error { return nil })
	if err := g.Run(t.Context()); !errors.Is(err, service.ErrEnded) {
		t.Errorf("got %v", err)
	}
}

func TestAbandonClosesWhatWasMade(t *testing.T) {
	var j journal
	boom := errors.New("boom")
	g := service.NewGroup(silent)
	g.Close("a", func() error { j.note("a"); return nil })
	g.Add("never started", func(context.Context) error { j.note("started"); return nil })
	g.Close("b", func() error { j.note("b"); return nil })
	if err := g.Abandon(boom); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if !slices.Equal(j.lines, []string{"b", "a"}) {
		t.Errorf("got %q", j.lines)
	}
}

func TestReadyzSaysWhichCheckFailsAndHealthzDoesNotCare(t *testing.T) {
	h := service.NewHealth()
	h.Check("postgres", func(context.Context) error { return nil })
	h.Check("redis", func(context.Context) error { return errors.New("connection refused") })
	mux := http.NewServeMux()
	h.Register(mux)
	get := func(path string) (int, string) {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		return rec.Code, rec.Body.String()
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d", code)
	}
	code, body := get("/readyz")
	var answer struct {
		Ready  bool
		Checks []service.CheckResult
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	want := []service.CheckResult{{Name: "postgres", Ready: true}, {Name: "redis", Reason: "connection refused"}}
	if code != http.StatusServiceUnavailable || answer.Ready || !slices.Equal(answer.Checks, want) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
		t.Errorf("/metrics: %d", code)
	}
}

func TestReadyzTellsAdviceAndIsReadyAllTheSame(t *testing.T) {
	h := service.NewHealth()
	h.Check("postgres", func(context.Context) error { return nil })
	h.Advise("kafka", func(context.Context) error { return errors.New("no broker") })
	ready, results := h.Ready(t.Context())
	want := []service.CheckResult{{Name: "postgres", Ready: true}, {Name: "kafka", Reason: "no broker", Advice: true}}
	if !ready || !slices.Equal(results, want) {
		t.Errorf("ready %v, %+v", ready, results)
	}
}

func TestServeStopsWithItsContext(t *testing.T) {
	ln, err := service.Listen("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	polling := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(polling)
		<-r.Context().Done() // a long poll must not hold up the stop
	})
	go func() { ended <- service.Serve(ctx, ln, h, silent) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	asked := make(chan error, 1)
	go func() {
		resp, err := client.Get("http://" + ln.Addr().String())
		if err == nil {
			err = resp.Body.Close()
		}
		asked <- err
	}()
	<-polling
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(4 * time.Second):
		t.Error("a long poll holds up the stop")
	}
	<-asked
}

func TestAwaitSaysWhoDidNotAnswer(t *testing.T) {
	var calls int
	up := service.Server{Name: "postgres", Addr: "a:1", Probe: func(context.Context) error {
		if calls++; calls < 2 {
			return errors.New("starting up")
		}
		return nil
	}}
	down := service.Server{Name: "kafka", Addr: "b:2", Probe: func(context.Context) error { return errors.New("refused") }}
	err := service.Await(t.Context(), silent, 700*time.Millisecond, nil, up, down)
	if err == nil || !strings.Contains(err.Error(), "kafka at b:2 did not answer within") || strings.Contains(err.Error(), "postgres") {
		t.Errorf("got %v", err)
	}
}

func TestAwaitDoesNotWaitOutWhatCannotHeal(t *testing.T) {
	wrong := errors.New("wrong password")
	s := service.Server{Name: "postgres", Addr: "a:1", Probe: func(context.Context) error { return wrong }}
	err := service.Await(t.Context(), silent, time.Hour, func(err error) bool { return errors.Is(err, wrong) }, s)
	if !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
}

func TestLoggerKeepsARecordOnALine(t *testing.T) {
	var b bytes.Buffer
	log := service.Logger(config.Config{LogFormat: "text", LogLevel: "warn"}, &b)
	log.Info("not shown")
	log.Warn("first\nsecond", "key", "a\x1b[31m\nb")
	if got := strings.TrimSuffix(b.String(), "\n"); strings.ContainsAny(got, "\n\x1b") || !strings.Contains(got, "first") {
		t.Errorf("got %q", got)
	}
	b.Reset()
	service.Logger(config.Config{LogLevel: "info"}, io.Writer(&b)).Info("hello")
	if !json.Valid(b.Bytes()) {
		t.Errorf("not JSON away from a terminal: %q", b.String())
	}
}
