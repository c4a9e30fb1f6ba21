package claims

// What a store needs to know, and the names of its keys.

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Defaults of Config.
const (
	DefaultHorizon    = 30 * 24 * time.Hour
	DefaultMaxCrashes = 3
	DefaultBeatTTL    = 6 * time.Second
)

// ChunkBits is how many task ids share one bitmap of done tasks: 4 KiB.
const ChunkBits = 1 << 15

// Config of a Store. The zero Config is usable, without a ledger.
type Config struct {
	Prefix     string        // begins every key; "" = none
	Horizon    time.Duration // how long done, dead and cancelled are remembered; 0 = DefaultHorizon
	MaxCrashes int           // crashes of an epoch, while it ran alone, at which a task is poison; 0 = DefaultMaxCrashes
	BeatTTL    time.Duration // silence after which an owner is gone, by Redis's clock; 0 = DefaultBeatTTL
	Cluster    bool          // give every key one hash tag
	Ledger     Ledger        // where the incarnation outlives Redis; nil = this store can never Open, only read and cancel
}

func (c *Config) fill() error {
	if c.Horizon == 0 {
		c.Horizon = DefaultHorizon
	}
	if c.MaxCrashes == 0 {
		c.MaxCrashes = DefaultMaxCrashes
	}
	if c.BeatTTL == 0 {
		c.BeatTTL = DefaultBeatTTL
	}
	switch {
	case c.Horizon < time.Second:
		return fmt.Errorf("claims: horizon %v is shorter than a second", c.Horizon)
	case c.MaxCrashes < 1:
		return fmt.Errorf("claims: max crashes %d: want at least 1", c.MaxCrashes)
	case c.BeatTTL < 60*time.Millisecond:
		return fmt.Errorf("claims: beat TTL %v is shorter than 60ms", c.BeatTTL)
	case strings.ContainsAny(c.Prefix, " \n") || strings.Count(c.Prefix, "{") > 1:
		return fmt.Errorf("claims: key prefix %q: no spaces, at most one {hash tag}", c.Prefix)
	}
	return nil
}

// Interval is how often an owner must call Beat.
func (c Config) Interval() time.Duration { return c.BeatTTL / 6 }

// pause is how long nothing is decided from absence: after Redis was lost (no
// claims at all) and after a beat that was missing (nobody is called silent).
// Two intervals: every live worker has beaten in it, and noticed.
func (c Config) pause() time.Duration { return c.BeatTTL / 3 }

// keys builds the names in docs/ARCHITECTURE.md, "Redis keys".
type keys struct {
	prefix                 string
	inc, hold, grace, gate string
	members, removing      string
}

func newKeys(prefix string, cluster bool) keys {
	if cluster && !strings.Contains(prefix, "{") {
		// One hash tag: every key on one node, so that a script sees all of them.
		if prefix == "" {
			prefix = "perdure:"
		}
		prefix = "{" + strings.TrimSuffix(prefix, ":") + "}:"
	}
	return keys{
		prefix: prefix,
		inc:    prefix + "inc",
		hold:   prefix + "inc:hold",
		grace:  prefix + "inc:grace",
		gate:   prefix + "inc:gate",

		members:  prefix + "members",
		removing: prefix + "removing",
	}
}

func (k *keys) claim(taskID string) string { return k.prefix + "c:" + taskID }

// heard is what was heard of the task's run; the scripts make the name themselves.
func (k *keys) heard(taskID string) string { return k.claim(taskID) + ":b" }

func (k *keys) beat(process string) string { return k.prefix + "w:" + process }

// void marks a call that its owner has given up; see handback.lua.
func (k *keys) void(token string) string { return k.prefix + "v:" + token }

func (k *keys) chunk(source string, generation int, chunk int64) string {
	return fmt.Sprintf("%sd:%s:%d:%d", k.prefix, source, generation, chunk)
}

// done is where the done bit of a task lies.
func (k *keys) done(taskID string) (key string, bit int64, err error) {
	id, err := schemas.ParseID(taskID)
	if err != nil {
		return "", 0, fmt.Errorf("claims: %q: %w", taskID, err)
	}
	return k.chunk(id.Source, id.Generation, id.Seq/ChunkBits), id.Seq % ChunkBits, nil
}

var errOwner = errors.New("claims: an owner is <instance>/<boot nonce>/<assignment>, without spaces")

// process is the part of an owner that beats: <instance>/<boot nonce>.
func process(owner string) (string, error) {
	i := strings.IndexByte(owner, '/')
	if i <= 0 || strings.ContainsAny(owner, " \n") {
		return "", errOwner
	}
	if j := strings.IndexByte(owner[i+1:], '/'); j >= 0 {
		owner = owner[:i+1+j]
	}
	if len(owner) == i+1 {
		return "", errOwner
	}
	return owner, nil
}
