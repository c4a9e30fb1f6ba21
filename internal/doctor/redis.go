package doctor

// Redis: does it keep what it is told?

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/service"
)

func redisServer(ctx context.Context, p Patient, r *report) {
	rdb, err := service.Redis(p.Config)
	if err != nil {
		r.fail(err.Error(), "claims live there: without it nothing is run", "set PERDURE_REDIS_ADDRS, or start `perdure up`")
		return
	}
	defer rdb.Close() //nolint:errcheck // only asked
	asked := time.Now()
	now, err := rdb.Time(ctx).Result()
	if err != nil {
		r.fail("cannot connect: "+service.ExplainRedis(p.Config, err).Error(), "claims live there: without it nothing is run",
			"start it, and check PERDURE_REDIS_ADDRS, user, password and TLS")
		return
	}
	skew(r, "Redis", asked, now, time.Now())
	info, err := rdb.Info(ctx, "server", "persistence").Result()
	version := field(info, "redis_version")
	if err != nil || version == "" {
		r.warn("this server tells no version: an embedded one, or a proxy", "its settings cannot be checked; the embedded one keeps nothing over a restart",
			"fine on a laptop; use a real Redis (6.2 or newer) for work")
		return
	}
	r.ok("version " + version)
	evicts(ctx, rdb, r)
	if field(info, "aof_enabled") == "1" {
		r.ok("append-only file is on")
		return
	}
	if save := setting(ctx, rdb, "save"); save != "" {
		r.warn("only snapshots (save "+save+")", "a crash forgets the claims of the last minutes: records not yet committed may run again",
			"CONFIG SET appendonly yes; CONFIG REWRITE")
		return
	}
	r.warn("nothing is kept on disk", "a restart forgets every claim and done mark: records not yet committed may run again",
		"CONFIG SET appendonly yes; CONFIG REWRITE")
}

// evicts looks at what Redis does when its memory is full.
func evicts(ctx context.Context, rdb redis.UniversalClient, r *report) {
	policy := setting(ctx, rdb, "maxmemory-policy")
	switch {
	case policy == "":
		r.warn("maxmemory-policy cannot be read", "a policy that evicts would drop claims", "ask its owner whether it is noeviction")
	case policy == "noeviction":
		r.ok("maxmemory-policy is noeviction")
	case setting(ctx, rdb, "maxmemory") == "0":
		r.warn("maxmemory-policy is "+policy+" (no maxmemory is set, so nothing is evicted now)", "with a limit, Redis would drop claims, and tasks run twice",
			"CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE")
	default:
		r.fail("maxmemory-policy is "+policy, "when memory is full Redis drops claims, and tasks run twice",
			"CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE")
	}
}

// setting asks for one setting; "" where it is forbidden or unknown.
func setting(ctx context.Context, rdb redis.UniversalClient, name string) string {
	m, err := rdb.ConfigGet(ctx, name).Result()
	if err != nil {
		return ""
	}
	return m[name]
}

// field reads one line of INFO.
func field(info, name string) string {
	for line := range strings.SplitSeq(info, "\n") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return v
		}
	}
	return ""
}
