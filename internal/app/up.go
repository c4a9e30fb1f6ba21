package app

// `perdure up`: every role in one process, on embedded servers where none is
// configured.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/pg"
)

// Up runs everything until ctx ends. env.Config must be LoadEnvironment's: with
// perdure.env read, it would take the servers of its own last run for real ones.
func Up(ctx context.Context, env Env) error {
	n, err := NewNode(ctx, env, NodeOptions{FixedPorts: true, Worker: true})
	if errors.Is(err, ErrStopped) {
		return nil
	}
	if err != nil {
		return err
	}
	n.p.banner(env.Out, n.Servers)
	return n.Run(ctx)
}

// NodeOptions are the ways in which a Node can differ from `perdure up`.
type NodeOptions struct {
	FixedPorts bool // embedded servers and API on their well-known ports, else any free ones
	Worker     bool // also run the kinds that have an executor
}

// Node is every role in one process: built by NewNode, then Run.
type Node struct {
	Servers Servers
	p       *process
}

// ErrStopped means that a node was told to stop while it started.
var ErrStopped = errors.New("stopped while it started")

// NewNode takes the data directory, starts the servers that are not configured,
// migrates, makes the topics, and writes perdure.env. Run must follow; it
// closes everything again. Where NewNode fails it has closed it itself.
func NewNode(ctx context.Context, env Env, opts NodeOptions) (*Node, error) {
	if env.Config.DataDir == "" {
		return nil, exit.Usage(errors.New("no folder for the data: there is no home directory, so set PERDURE_DATA_DIR"))
	}
	lock, err := embedded.LockDir(env.Config.DataDir)
	var inUse *embedded.DirInUseError
	if errors.As(err, &inUse) {
		return nil, exit.Refusal(err)
	}
	if err != nil {
		return nil, err
	}
	n := &Node{p: newProcess("up", env)}
	n.p.group.Close("data directory", lock.Release)
	if err := n.build(ctx, opts); err != nil {
		if err := n.p.abandon(ctx, err); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
	}
	return n, nil
}

// Config is the node's configuration with the addresses of its servers.
func (n *Node) Config() config.Config { return n.p.cfg }

// Run runs the roles until ctx ends or one of them fails, then stops all.
func (n *Node) Run(ctx context.Context) error { return n.p.run(ctx) }

// build brings up servers, schema, topics and roles, in that order.
func (n *Node) build(ctx context.Context, opts NodeOptions) error {
	p := n.p
	if err := p.loadCatalog(); err != nil {
		return noCatalog(p.cfg.Catalog, err)
	}
	if err := p.nodeAddr(opts.FixedPorts); err != nil {
		return err
	}
	tokens, err := p.tokens()
	if err != nil {
		return err
	}
	if err := p.listen(tokens, true); err != nil {
		return err
	}
	if err := p.takeInstance(); err != nil {
		return err
	}
	if n.Servers, err = startEmbedded(ctx, &p.cfg, p.group, p.log, opts.FixedPorts); err != nil {
		return err
	}
	if n.Servers.Kafka.Embedded {
		p.settings.MaxReplication = 1
	}
	if err := p.connect(ctx, need{postgres: true, redis: true, kafka: true}); err != nil {
		return err
	}
	if err := p.addRoles(ctx, opts.Worker); err != nil {
		return err
	}
	return p.writeEnvFile()
}

// addRoles migrates, makes topics, and adds every role.
func (p *process) addRoles(ctx context.Context, withWorker bool) error {
	url, err := DirectURL(p.cfg)
	if err != nil {
		return err
	}
	if err := pg.Migrate(ctx, url, p.cfg.Source); err != nil {
		return err
	}
	if err := p.ensureTopics(ctx); err != nil {
		return err
	}
	if err := p.addDispatcher(ctx); err != nil {
		return err
	}
	if err := p.addRelay(ctx); err != nil {
		return err
	}
	if err := p.addReplayer(ctx); err != nil {
		return err
	}
	if !withWorker {
		return nil
	}
	queues, others := executorQueues(p.catalog)
	if others != "" {
		p.log.Info("queues left to workers of your own; they find this by perdure.env", "detail", others)
	}
	if len(queues) == 0 {
		return nil
	}
	return p.addWorker(queues)
}

// nodeAddr takes the well-known port or the next free one, or any free one,
// where no address is configured.
func (p *process) nodeAddr(fixed bool) error {
	if p.cfg.HTTPAddr != "" {
		return nil
	}
	first := 0
	if fixed {
		first = portHTTP
	}
	n, err := embedded.FreePort(first)
	if err != nil {
		return err
	}
	p.cfg.HTTPAddr = loopbackAddr(n)
	return nil
}

// writeEnvFile tells every other command and worker what runs here, and takes
// it back at a stop.
func (p *process) writeEnvFile() error {
	catalog, err := filepath.Abs(p.cfg.Catalog)
	if err != nil {
		return fmt.Errorf("PERDURE_CATALOG: %w", err)
	}
	p.cfg.Catalog, p.cfg.APIURL = catalog, p.url()
	path := config.EnvFile(p.cfg.DataDir)
	if err := config.WriteEnvFile(path, p.cfg.ForOthers()); err != nil {
		return err
	}
	p.group.Close("perdure.env", func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}

// noCatalog says what to write where there is no catalog yet.
func noCatalog(path string, err error) error {
	if _, statErr := os.Stat(path); !errors.Is(statErr, fs.ErrNotExist) {
		return fmt.Errorf("catalog: %w", err)
	}
	return fmt.Errorf(`there is no %s: it declares your kinds of task and their queues. The smallest one:

version: 1
queues:
  hello: {partitions: 4}
kinds:
  hello.world:
    queue: hello
    executor: {http: {url: "http://127.0.0.1:8080/hello"}}

Write it there, or name another with PERDURE_CATALOG. To see Perdure work without one: perdure demo`, path)
}
