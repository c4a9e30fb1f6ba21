// Kafka for a test: brokers, and a prefix for topics and groups.

package testkit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/embedded"
)

// cleanupTimeout is for removing what a test leaves on a shared server.
const cleanupTimeout = 20 * time.Second

// KafkaServer is a test's share of a Kafka.
type KafkaServer struct {
	Brokers []string // seed addresses
	Prefix  string   // for topics, groups, transactional ids: "t<random>-"
	Real    bool     // false: kfake
	Version string   // guessed from the APIs that it serves ("v4.3"); "kfake"
}

type kafkaSource struct {
	brokers []string
	real    bool
	version string
}

// kafkaOnce finds or starts the process's Kafka.
var kafkaOnce = sync.OnceValues(func() (kafkaSource, error) {
	src := kafkaSource{real: true}
	where := os.Getenv(EnvKafka)
	if where != "" {
		src.brokers = strings.Split(where, ",")
	} else {
		if requireReal() {
			return src, fmt.Errorf("%s=1 and no %s: a test may not fall back to kfake", EnvRequireReal, EnvKafka)
		}
		k, err := embedded.StartKafka(context.Background(), embedded.KafkaConfig{})
		if err != nil {
			return src, err
		}
		used.keep(k)
		src.brokers, src.real = k.Brokers(), false
	}
	if !src.real {
		src.version = "kfake"
		used.tell("kafka     kfake, embedded")
		return src, nil
	}
	version, err := kafkaVersion(src.brokers)
	if err != nil {
		return src, err
	}
	src.version = version
	if err := awaitCoordinator(src.brokers); err != nil {
		return src, err
	}
	used.tell("kafka     %s (Apache Kafka at %s)", version, where)
	return src, nil
})

// Kafka gives the test brokers and a prefix of its own. Topics and groups with
// that prefix are deleted when the test ends.
func Kafka(t testing.TB) KafkaServer {
	t.Helper()
	src, err := kafkaOnce()
	if err != nil {
		t.Fatalf("testkit: kafka: %v", err)
	}
	s := KafkaServer{Brokers: src.brokers, Prefix: prefix() + "-", Real: src.real, Version: src.version}
	t.Cleanup(func() { removeKafka(t, s) })
	return s
}

// prefix is unique per call, begins with a letter, and suits every server.
func prefix() string { return "t" + strings.ToLower(rand.Text()[:12]) }

func kafkaVersion(brokers []string) (string, error) {
	adm, err := admin(brokers)
	if err != nil {
		return "", err
	}
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	versions, err := adm.ApiVersions(ctx)
	if err != nil {
		return "", fmt.Errorf("ask %v for its version: %w", brokers, err)
	}
	for _, v := range versions {
		if v.Err == nil {
			return v.VersionGuess(), nil
		}
		err = v.Err
	}
	return "", fmt.Errorf("ask %v for its version: %w", brokers, err)
}

// awaitCoordinator waits until a broker that has only just started can serve a
// consumer group: it makes the topic for their offsets when the first one asks.
func awaitCoordinator(brokers []string) error {
	adm, err := admin(brokers)
	if err != nil {
		return err
	}
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		_, err := adm.FetchOffsets(ctx, prefix())
		if err == nil || errors.Is(err, kerr.GroupIDNotFound) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("consumer groups of %v: %w", brokers, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func admin(brokers []string) (*kadm.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", brokers, err)
	}
	return kadm.NewClient(cl), nil
}

// removeKafka keeps a shared broker small. It cannot fail a test that passed:
// a group whose members are just leaving may refuse.
func removeKafka(t testing.TB, s KafkaServer) {
	adm, err := admin(s.Brokers)
	if err != nil {
		t.Logf("testkit: clean up kafka: %v", err)
		return
	}
	defer adm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var topics, groups []string
	if all, err := adm.ListTopics(ctx); err == nil {
		for _, name := range all.Names() {
			if strings.HasPrefix(name, s.Prefix) {
				topics = append(topics, name)
			}
		}
	}
	if all, err := adm.ListGroups(ctx); err == nil {
		for _, name := range all.Groups() {
			if strings.HasPrefix(name, s.Prefix) {
				groups = append(groups, name)
			}
		}
	}
	if len(groups) > 0 {
		if _, err := adm.DeleteGroups(ctx, groups...); err != nil {
			t.Logf("testkit: delete groups of the test: %v", err)
		}
	}
	if len(topics) > 0 {
		if _, err := adm.DeleteTopics(ctx, topics...); err != nil {
			t.Logf("testkit: delete topics of the test: %v", err)
		}
	}
}
