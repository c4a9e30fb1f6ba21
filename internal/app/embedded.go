package app

// Embedded servers for what nobody configured, on fixed loopback ports.

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/service"
)

// The ports of `perdure up`; where one is taken, the next free one.
const (
	portHTTP     = 17070
	portPostgres = 15432
	portRedis    = 16379
	portKafka    = 19092
)

// Servers says where each server is, and whether it is embedded.
type Servers struct {
	Postgres, Redis, Kafka Place
}

// Place is where one server is.
type Place struct {
	Embedded bool
	Addr     string // no password
	Detail   string // of an embedded one: what it is
	Data     string // of an embedded one: its folder; "" keeps nothing
}

// startEmbedded starts a server for each that cfg does not name, fills in its
// address, and adds its stop to g. fixed asks for the well-known ports.
func startEmbedded(ctx context.Context, cfg *config.Config, g *service.Group, log *slog.Logger, fixed bool) (Servers, error) {
	var s Servers
	if cfg.PostgresURL == "" {
		dir := filepath.Join(cfg.DataDir, "postgres")
		db, n, err := onFreePort(portPostgres, fixed, func(n int) (*embedded.Postgres, error) {
			return embedded.StartPostgres(ctx, embedded.PostgresConfig{Dir: dir, Port: n, Log: log})
		})
		if err != nil {
			return s, fmt.Errorf("%w: or name a Postgres of yours with PERDURE_POSTGRES_URL", err)
		}
		g.Close("embedded postgres", db.Close)
		g.Add("embedded postgres", func(ctx context.Context) error { return watch(ctx, db) })
		cfg.PostgresURL, cfg.PostgresDirectURL = db.URL(), ""
		s.Postgres = Place{Embedded: true, Addr: loopbackAddr(n), Detail: "Postgres " + db.Version() + ", " + db.Source(), Data: db.Dir()}
	} else {
		s.Postgres = Place{Addr: config.MaskURL(cfg.PostgresURL)}
	}
	if len(cfg.RedisAddrs) == 0 {
		r, _, err := onFreePort(portRedis, fixed, func(n int) (*embedded.Redis, error) {
			return embedded.StartRedis(ctx, embedded.RedisConfig{Port: n, Log: log})
		})
		if err != nil {
			return s, err
		}
		g.Close("embedded redis", r.Close)
		cfg.RedisAddrs = []string{r.Addr()}
		s.Redis = Place{Embedded: true, Addr: r.Addr(), Detail: "miniredis"}
	} else {
		s.Redis = Place{Addr: fmt.Sprint(cfg.RedisAddrs)}
	}
	if len(cfg.KafkaBrokers) == 0 {
		dir := filepath.Join(cfg.DataDir, "kafka")
		k, _, err := onFreePort(portKafka, fixed, func(n int) (*embedded.Kafka, error) {
			return embedded.StartKafka(ctx, embedded.KafkaConfig{Dir: dir, Port: n, Log: log})
		})
		if err != nil {
			return s, err
		}
		g.Close("embedded kafka", k.Close)
		cfg.KafkaBrokers = k.Brokers()
		s.Kafka = Place{Embedded: true, Addr: cfg.KafkaBrokers[0], Detail: "kfake", Data: dir}
	} else {
		s.Kafka = Place{Addr: fmt.Sprint(cfg.KafkaBrokers)}
	}
	return s, nil
}

// onFreePort starts a server on the first free port from first on, on any if not
// fixed. Between the look for a port and its use lie seconds (a new Postgres is
// made): if another process took it meanwhile, the next one is tried.
func onFreePort[S any](first int, fixed bool, start func(port int) (S, error)) (s S, port int, err error) {
	if !fixed {
		first = 0
	}
	for range 5 {
		if port, err = embedded.FreePort(first); err != nil {
			return s, 0, err
		}
		if s, err = start(port); err == nil {
			return s, port, nil
		}
		if now, probe := embedded.FreePort(port); probe == nil && now == port {
			return s, port, err // the port was not the reason
		}
	}
	return s, port, err
}

// watch ends with an error when the embedded Postgres dies by itself.
func watch(ctx context.Context, db *embedded.Postgres) error {
	select {
	case <-ctx.Done():
		return nil
	case <-db.Done():
		return fmt.Errorf("the embedded Postgres died; its log is in %s", filepath.Dir(db.Dir()))
	}
}

func loopbackAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
