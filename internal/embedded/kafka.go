// Embedded Kafka: one kfake broker, on disk if it is given a directory.

package embedded

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KafkaConfig says where an embedded Kafka listens and keeps its records.
type KafkaConfig struct {
	Dir  string       // data directory; "" keeps everything in memory
	Port int          // loopback port; 0 takes any free one
	Log  *slog.Logger // nil is silent
}

// Kafka is a single embedded broker. Its methods may be called concurrently.
type Kafka struct {
	cluster *kfake.Cluster
	brokers []string
	close   sync.Once
}

// StartKafka starts a broker and returns when it answers. With a directory,
// topics, records, groups and their offsets are those of the last run. Topics
// are never created by asking for them, and nothing is deleted by time unless
// a topic says so itself.
func StartKafka(ctx context.Context, cfg KafkaConfig) (*Kafka, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("embedded kafka: %w", err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("perdure-embedded"),
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.BrokerConfigs(map[string]string{
			// kfake's default is seven days; a laptop asleep for a
			// week must find its tasks and its offsets again.
			"log.retention.ms":          "-1",
			"offsets.retention.minutes": "5256000",
		}),
	}
	if cfg.Port != 0 {
		opts = append(opts, kfake.Ports(cfg.Port))
	}
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("embedded kafka: create data directory: %w", err)
		}
		opts = append(opts, kfake.DataDir(filepath.Clean(cfg.Dir)))
	}
	if cfg.Log != nil {
		opts = append(opts, kfake.WithLogger(kafkaLog{cfg.Log}))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		where := "in memory"
		if cfg.Dir != "" {
			where = "with data in " + cfg.Dir
		}
		return nil, fmt.Errorf("embedded kafka: start on port %d %s: %w", cfg.Port, where, err)
	}
	return &Kafka{cluster: cluster, brokers: cluster.ListenAddrs()}, nil
}

// Brokers are the seed addresses, as PERDURE_KAFKA_BROKERS would hold them.
func (k *Kafka) Brokers() []string { return append([]string(nil), k.brokers...) }

// Close ends all connections, writes what is not yet written, and stops. A
// second Close does nothing.
func (k *Kafka) Close() error {
	k.close.Do(k.cluster.Close)
	return nil
}

var _ io.Closer = (*Kafka)(nil)

// kafkaLog hands kfake's lines to slog; kfake's info is one line a request,
// which is our debug.
type kafkaLog struct{ log *slog.Logger }

func (l kafkaLog) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case kfake.LogLevelError:
		to = slog.LevelError
	case kfake.LogLevelWarn:
		to = slog.LevelWarn
	}
	if !l.log.Enabled(context.Background(), to) {
		return
	}
	l.log.Log(context.Background(), to, fmt.Sprintf(format, args...), "part", "embedded kafka")
}
