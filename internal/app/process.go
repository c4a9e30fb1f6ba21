package app

// One process: its logger, health, connections and parts, in order.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/schemas"
)

// Env is what a process is given by its command.
type Env struct {
	Config  config.Config
	Version string    // of this binary; "" = built from source
	Out     io.Writer // what the command prints: a banner
	ErrOut  io.Writer // logs
	JQ      []string  // the command that runs jq programs of plans, see jqchild; empty = none is run, and no plan has a condition
}

// process is a Group under construction with what its parts share. Each
// connection is opened once, when the first part asks for it.
type process struct {
	role    string
	version string
	jq      []string // see Env
	cfg     config.Config
	log     *slog.Logger
	health  *service.Health
	group   *service.Group

	healthMux *http.ServeMux // served from the first moment
	mux       *http.ServeMux // served once started
	api       *api.API       // nil: no /v1
	addr      *net.TCPAddr

	catalog  *schemas.Catalog
	instance string
	nameHeld bool // by a lock
	names    kafka.Names
	settings kafka.Settings

	db     *pgxpool.Pool // through POSTGRES_URL
	direct *pgxpool.Pool // through POSTGRES_DIRECT_URL, the same pool without one
	rdb    redis.UniversalClient
	kafka  []kgo.Opt
	client *kgo.Client // of admin
	admin  *kadm.Client

	requests requests
}

// newProcess makes a process that is not ready. Nothing is connected yet.
func newProcess(role string, env Env) *process {
	log := service.Logger(env.Config, env.ErrOut).With("role", role)
	p := &process{
		role:      role,
		version:   env.Version,
		jq:        env.JQ,
		cfg:       env.Config,
		log:       log,
		health:    service.NewHealth(),
		group:     service.NewGroup(log),
		mux:       http.NewServeMux(),
		healthMux: http.NewServeMux(),
		names:     kafka.Names{Prefix: env.Config.KafkaTopicPrefix},
	}
	p.settings = kafka.Settings{Names: p.names, History: env.Config.History}
	p.health.Register(p.healthMux)
	p.health.Check("start", func(context.Context) error {
		if !p.requests.open() {
			return errors.New("starting (waits for its servers or its topics; the log says for which) or stopping")
		}
		return nil
	})
	return p
}

// loadCatalog reads PERDURE_CATALOG.
func (p *process) loadCatalog() error {
	cat, err := schemas.LoadCatalog(p.cfg.Catalog)
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	p.catalog = cat
	for _, w := range cat.Warnings {
		p.log.Warn("the catalog asks for what is not done", "line", w.Line, "path", w.Path, "detail", w.Detail)
	}
	return nil
}

// takeInstance gives the process its name, held until it has stopped.
func (p *process) takeInstance() error {
	i, err := p.cfg.TakeInstance(p.role)
	if err != nil {
		return err
	}
	p.instance, p.nameHeld = i.Name, i.Held()
	p.group.Close("instance slot", i.Release)
	return nil
}

// run starts the parts and blocks until ctx ends or one of them fails.
func (p *process) run(ctx context.Context) error {
	// Last in, first out: no request is taken, and none runs, when the parts stop.
	p.group.Close("requests", p.requests.stop)
	p.requests.start()
	p.log.Info("started", "instance", p.instance)
	err := p.group.Run(ctx)
	if err == nil {
		p.log.Info("stopped")
	}
	return err
}

// abandon closes what was opened when the process cannot start. A stop that was
// asked for meanwhile is no failure.
func (p *process) abandon(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = nil
	}
	return p.group.Abandon(err)
}

// start goes through what a role begins with, in order, then runs until ctx
// ends. Where a step fails, what was opened is closed again.
func (p *process) start(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return p.abandon(ctx, err)
		}
	}
	return p.run(ctx)
}
