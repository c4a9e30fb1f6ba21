package claims

// Which server this is. A failover keeps `inc` (it was replicated) and may lose
// the newest claims, so `inc` also names the server that it was written for.
// Another server is reached through a new connection, or in a cluster through
// that of another node: connections are counted and nodes noted, and the first
// answer after a change counts only once the name of who gave it was read.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// anonymous is the name of a server that has none (miniredis); for such a one
// only the absence of `inc` tells that it was lost.
const anonymous = "-"

// Ping asks the server that the claims lie on: in a cluster the one node of
// them, whichever others answer. It writes nothing.
func Ping(ctx context.Context, rdb redis.UniversalClient, cfg Config) error {
	k := newKeys(cfg.Prefix, cfg.Cluster)
	if err := rdb.Get(ctx, k.inc).Err(); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}

// answered is which node of a cluster gave the last answer to a call. A replica
// may long be connected to when it takes over: no new connection tells then.
type answered struct{ node *redis.Client }

type answeredKey struct{}

// asking returns a context that notes who answers; on a single server there is
// nothing to note.
func (s *Store) asking(ctx context.Context) (context.Context, *answered) {
	if !s.cluster() {
		return ctx, nil
	}
	by := new(answered)
	return context.WithValue(ctx, answeredKey{}, by), by
}

func (s *Store) cluster() bool {
	_, ok := s.rdb.(*redis.ClusterClient)
	return ok
}

// sure returns nil where an answer came from the server that inc was opened on.
func (s *Store) sure(ctx context.Context, inc *incarnation, by *answered) error {
	if by == nil {
		if s.dials.Load() == s.checked.Load() {
			return nil
		}
		return s.verify(ctx, inc, nil)
	}
	if by.node == nil { // it joined before anybody watched it
		return errors.Join(errors.New("claims: it is not known which node of the cluster answered: ask again"), s.watchNodes(ctx))
	}
	if by.node == s.home.Load() && s.dials.Load() == s.checked.Load() {
		return nil
	}
	return s.verify(ctx, inc, by.node)
}

// watch counts connections from the moment they are begun.
func (s *Store) watch() {
	if c, ok := s.rdb.(*redis.ClusterClient); ok {
		c.OnNewNode(s.watchNode)
		return
	}
	s.rdb.AddHook(hook{s: s})
}

// watchNodes takes up the nodes that the client knew before it had this store.
func (s *Store) watchNodes(ctx context.Context) error {
	c, ok := s.rdb.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	return c.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error {
		s.watchNode(node)
		return nil
	})
}

func (s *Store) watchNode(node *redis.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.watched[node] {
		s.watched[node] = true
		node.AddHook(hook{s, node})
	}
}

type hook struct {
	s    *Store
	node *redis.Client // of a cluster; nil = the only one
}

func (h hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.s.dials.Add(1)
		return next(ctx, network, addr)
	}
}

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	if h.node == nil {
		return next
	}
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.note(ctx)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook sees a command that a cluster asked to be sent to where
// its slot is moving.
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	if h.node == nil {
		return next
	}
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.note(ctx)
		return next(ctx, cmds)
	}
}

func (h hook) note(ctx context.Context) {
	if by, ok := ctx.Value(answeredKey{}).(*answered); ok {
		by.node = h.node
	}
}

// identity reads "<run_id>/<master_replid>" of a node, nil = the one that
// claims are asked from now: the process, and the history of its data (a former
// master that was demoted and promoted again keeps run_id).
func (s *Store) identity(ctx context.Context, node *redis.Client) (string, error) {
	var c redis.Cmdable = s.rdb
	if node != nil {
		c = node
	}
	pipe := c.Pipeline()
	server, replication := pipe.Info(ctx, "server"), pipe.Info(ctx, "replication")
	if _, err := pipe.Exec(ctx); err != nil {
		if unsupported(err) {
			return anonymous, nil
		}
		return "", fmt.Errorf("ask Redis who it is: %w", err)
	}
	run, data := infoField(server.Val(), "run_id"), infoField(replication.Val(), "master_replid")
	if run == "" {
		return anonymous, nil
	}
	return run + "/" + data, nil
}

// node is that of a cluster which claims are asked from, as the client believes
// now; nil on a single server.
func (s *Store) node(ctx context.Context) (*redis.Client, error) {
	c, ok := s.rdb.(*redis.ClusterClient)
	if !ok {
		return nil, nil
	}
	node, err := c.MasterForKey(ctx, s.k.inc)
	if err != nil {
		return nil, fmt.Errorf("find the node of %s: %w", s.k.inc, err)
	}
	return node, nil
}

// unsupported: the server answered that it has no such command or section, or
// that this user may not ask; every other error tells nothing.
func unsupported(err error) bool {
	msg := err.Error()
	return strings.Contains(msg, "is not supported") || strings.HasPrefix(msg, "ERR unknown command") || strings.HasPrefix(msg, "NOPERM")
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// verify compares a server, nil = the only one, with that on which inc was
// opened.
func (s *Store) verify(ctx context.Context, inc *incarnation, node *redis.Client) error {
	dials := s.dials.Load()
	server, err := s.identity(ctx, node)
	if err != nil {
		return err
	}
	if server != inc.server {
		return fmt.Errorf("%w (it is another server: failed over or restarted)", ErrLost)
	}
	s.checked.Store(dials)
	s.home.Store(node)
	s.looked.Store(int64(time.Since(s.born)))
	return nil
}
