package claims

// Which server this is. A failover keeps `inc` (it was replicated) and may lose
// the newest claims, so `inc` also names the server that it was written for.
// Another server is reached only through a new connection: those are counted,
// and the first answer after one counts only once the server's name was read.

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

// watchDials counts connections from the moment they are begun.
func (s *Store) watchDials() {
	hook := dialHook{s}
	if c, ok := s.rdb.(*redis.ClusterClient); ok {
		c.OnNewNode(func(node *redis.Client) { node.AddHook(hook) })
		return
	}
	s.rdb.AddHook(hook)
}

type dialHook struct{ s *Store }

func (h dialHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.s.dials.Add(1)
		return next(ctx, network, addr)
	}
}

func (dialHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (dialHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// identity reads "<run_id>/<master_replid>": the process, and the history of
// its data (a former master that was demoted and promoted again keeps run_id).
func (s *Store) identity(ctx context.Context) (string, error) {
	var c redis.Cmdable = s.rdb
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		node, err := cluster.MasterForKey(ctx, s.k.inc)
		if err != nil {
			return "", fmt.Errorf("find the node of %s: %w", s.k.inc, err)
		}
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

// verify compares the server with the one that inc was opened on.
func (s *Store) verify(ctx context.Context, inc *incarnation) error {
	dials := s.dials.Load()
	server, err := s.identity(ctx)
	if err != nil {
		return err
	}
	if server != inc.server {
		return fmt.Errorf("%w (it is another server: failed over or restarted)", ErrLost)
	}
	s.checked.Store(dials)
	s.looked.Store(int64(time.Since(s.born)))
	return nil
}
