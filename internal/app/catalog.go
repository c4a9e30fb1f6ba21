package app

// The catalog as people look at it, and as Kafka should follow it.

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// KindView is a kind with every default filled in. Durations are Go's.
type KindView struct {
	Kind         string `json:"kind"`
	Queue        string `json:"queue"`
	Partitions   int    `json:"partitions"`
	RunsIn       string `json:"runs_in"` // the executor's URL, or the user's own worker
	Schema       string `json:"schema"`
	Effects      string `json:"effects"`
	Reconcile    string `json:"reconcile,omitempty"` // the hook's URL
	Order        string `json:"order"`
	OnDead       string `json:"on_dead"`
	Timeout      string `json:"timeout"`
	Heartbeat    string `json:"heartbeat_timeout,omitempty"`
	ExpiresAfter string `json:"expires_after"`
	StartWithin  string `json:"start_within,omitempty"`
	Dependency   string `json:"dependency,omitempty"`
	Schedule     string `json:"schedule,omitempty"`  // cron and time zone
	NextTask     string `json:"next_task,omitempty"` // when the schedule is next due, RFC 3339
	MaxAttempts  int    `json:"max_attempts"`
	InitialDelay string `json:"initial_delay"`
	MaxDelay     string `json:"max_delay"`
	LongestRetry string `json:"longest_retry"` // sum of the pauses between all attempts, without jitter
}

// ViewKind describes k of cat.
func ViewKind(cat *schemas.Catalog, k *schemas.Kind) KindView {
	v := KindView{
		Kind: k.Name, Queue: k.Queue, Partitions: cat.Queues[k.Queue].Partitions, RunsIn: "a worker of your own (worker.Handle)",
		Schema: "any payload", Effects: string(k.Effects), Order: "none", OnDead: "continue", Timeout: k.Timeout.String(),
		ExpiresAfter: "never", Dependency: k.Dependency, MaxAttempts: k.Retry.MaxAttempts,
		InitialDelay: k.Retry.InitialDelay.String(), MaxDelay: k.Retry.MaxDelay.String(),
	}
	if k.HTTP != nil {
		v.RunsIn = k.HTTP.URL
	}
	if k.Heartbeat > 0 {
		v.Heartbeat = k.Heartbeat.String()
	}
	if k.Reconcile != nil {
		v.Reconcile = k.Reconcile.URL
	}
	if k.Schedule != nil {
		v.Schedule = k.Schedule.Spec()
		v.NextTask = k.Schedule.Next(time.Now()).Format(time.RFC3339)
	}
	if k.SchemaFile != "" {
		v.Schema = k.SchemaFile
	}
	if k.Ordered {
		v.Order = "key"
	}
	if k.BlockOnDead {
		v.OnDead = "block"
	}
	if k.ExpiresAfter > 0 {
		v.ExpiresAfter = k.ExpiresAfter.String()
	}
	if k.StartWithin > 0 {
		v.StartWithin = k.StartWithin.String()
	}
	var sum time.Duration
	pause := k.Retry.InitialDelay
	for range k.Retry.MaxAttempts - 1 {
		sum += min(pause, k.Retry.MaxDelay)
		if pause < k.Retry.MaxDelay {
			pause *= 2
		}
	}
	v.LongestRetry = sum.String()
	return v
}

// PlanTopics compares the cluster with cat; it changes nothing.
func PlanTopics(ctx context.Context, cfg config.Config, cat *schemas.Catalog) (changes []kafka.Change, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = withAdmin(cfg, func(a admin) error {
		changes, err = kafka.Plan(ctx, a.Client, cat, a.settings)
		return err
	})
	return changes, err
}

// admin is a command's own Kafka client.
type admin struct {
	*kadm.Client
	opts     []kgo.Opt
	settings kafka.Settings
}

// withAdmin opens one for the time of do.
func withAdmin(cfg config.Config, do func(admin) error) error {
	opts, err := kafka.ClientOpts(cfg, "cli", "cli", nil)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	defer cl.Close()
	return do(admin{kadm.NewClient(cl), opts, kafka.Settings{Names: kafka.Names{Prefix: cfg.KafkaTopicPrefix}, History: cfg.History, Requests: cl}})
}
