package kafka

// The Kafka client's log lines in ours, without secrets.

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// logger passes the client's lines on to slog, one level lower where they are
// only news to someone who debugs the client: its "info" tells of every
// heartbeat's neighbour.
type logger struct {
	log    *slog.Logger
	hidden *secrets
}

// secrets are never let through, wherever they stand in a line. Renewed ones are
// added while the client runs; only the last few are kept.
type secrets struct {
	mu   sync.Mutex
	last []string
}

// keptSecrets bounds what a token that is renewed for years costs.
const keptSecrets = 4

func (s *secrets) add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret == "" || slices.Contains(s.last, secret) {
		return
	}
	s.last = append(s.last, secret)
	s.last = s.last[max(0, len(s.last)-keptSecrets):]
}

func (s *secrets) mask(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.last {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// levelTrace is for the client's own debug lines, several a request.
const levelTrace = slog.LevelDebug - 4

func newLogger(log *slog.Logger, hidden *secrets) *logger {
	return &logger{log.With("part", "kafka"), hidden}
}

// Level implements kgo.Logger: the client then does not even build lower lines.
func (l *logger) Level() kgo.LogLevel {
	ctx := context.Background()
	switch {
	case l.log.Enabled(ctx, levelTrace):
		return kgo.LogLevelDebug
	case l.log.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.log.Enabled(ctx, slog.LevelWarn):
		return kgo.LogLevelWarn
	case l.log.Enabled(ctx, slog.LevelError):
		return kgo.LogLevelError
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := levelTrace
	switch level {
	case kgo.LogLevelInfo:
		to = slog.LevelDebug
	case kgo.LogLevelError:
		to = slog.LevelError
	case kgo.LogLevelWarn:
		to = slog.LevelWarn
	}
	if !l.log.Enabled(context.Background(), to) {
		return
	}
	safe := make([]any, len(keyvals))
	for i, v := range keyvals {
		if i%2 == 1 && secretName(fmt.Sprint(keyvals[i-1])) {
			safe[i] = "***"
			continue
		}
		safe[i] = l.mask(v)
	}
	l.log.Log(context.Background(), to, l.hidden.mask(msg), safe...)
}

// mask keeps numbers and the like as they are, and text without the secret.
func (l *logger) mask(v any) any {
	switch v.(type) {
	case int, int8, int16, int32, int64, uint32, uint64, bool, nil:
		return v
	}
	return l.hidden.mask(fmt.Sprint(v))
}

func secretName(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"password", "secret", "token", "credential", "sasl_auth"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}
