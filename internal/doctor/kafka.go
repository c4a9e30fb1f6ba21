package doctor

// Kafka: is what is acknowledged safe, and are the topics the catalog's?

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// defaultHorizon is how long claims remember unless told otherwise.
const defaultHorizon = 30 * 24 * time.Hour

func kafkaCluster(ctx context.Context, p Patient, r *report) {
	opts, err := kafka.ClientOpts(p.Config, "doctor", "doctor", nil)
	if err != nil {
		r.fail(err.Error(), "tasks travel through it", "set PERDURE_KAFKA_BROKERS, or start `perdure up`")
		return
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		r.fail("client: "+err.Error(), "", "check the PERDURE_KAFKA_ variables with `perdure config`")
		return
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	meta, err := adm.BrokerMetadata(ctx)
	if err != nil {
		r.fail("cannot connect: "+kafka.Explain(p.Config, err).Error(), "tasks are accepted but wait in the outbox", "start it, and check PERDURE_KAFKA_BROKERS, TLS and SASL")
		return
	}
	r.ok(fmt.Sprintf("%d broker(s), cluster %s", len(meta.Brokers), meta.Cluster))
	versions(ctx, adm, r)
	if p.Catalog == nil {
		return
	}
	names := kafka.Names{Prefix: p.Config.KafkaTopicPrefix}
	settings := kafka.Settings{Names: names, History: p.Config.History, Requests: cl}
	changes, err := kafka.Plan(ctx, adm, p.Catalog, settings)
	if err != nil {
		r.fail(err.Error(), "", "check the user's rights to describe topics")
		return
	}
	for _, c := range changes {
		mend := "perdure topics plan; a role that starts makes it right (PERDURE_KAFKA_TOPICS=create)"
		if !c.Auto {
			mend = "by hand, as said"
		}
		r.warn(c.Message, "the catalog and the cluster disagree", mend)
	}
	if len(changes) == 0 {
		r.ok("topics are as the catalog asks")
	}
	durability(ctx, adm, names, p.Catalog, r)
	sharedQueues(ctx, cl, names, p.Catalog, r)
	horizon(p, r)
}

func versions(ctx context.Context, adm *kadm.Client, r *report) {
	v, err := adm.ApiVersions(ctx)
	if err != nil {
		r.warn("brokers tell no versions: "+err.Error(), "", "")
		return
	}
	for _, b := range v {
		if b.Err != nil {
			r.warn(fmt.Sprintf("broker %d: %v", b.NodeID, b.Err), "its partitions may be away", "look at its log")
			continue
		}
		r.ok(fmt.Sprintf("broker %d speaks Kafka %s", b.NodeID, b.VersionGuess()))
	}
}

// durability compares min.insync.replicas with the replicas that there are.
func durability(ctx context.Context, adm *kadm.Client, names kafka.Names, cat *schemas.Catalog, r *report) {
	var topics []string
	for _, q := range cat.QueueNames() {
		topics = append(topics, names.Tasks(q), names.DLQ(q))
	}
	details, err := adm.ListTopics(ctx, topics...)
	if err != nil {
		r.fail("cannot list topics: "+err.Error(), "", "")
		return
	}
	configs, err := adm.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		r.warn("cannot read topic settings: "+err.Error(), "", "allow this user to describe configs")
		return
	}
	for _, c := range configs {
		d, there := details[c.Name]
		if c.Err != nil || !there || d.Err != nil || len(d.Partitions) == 0 {
			continue // the plan has said that it is missing
		}
		replicas := d.Partitions.NumReplicas()
		inSync := 1
		for _, kv := range c.Configs {
			if kv.Key == "min.insync.replicas" {
				if n, err := strconv.Atoi(kv.MaybeValue()); err == nil {
					inSync = n
				}
			}
		}
		switch {
		case replicas == 1:
			r.warn(c.Name+" has one replica", "a broken disk loses what waits in it", "replication: 3 in the catalog, on three brokers")
		case inSync < 2:
			r.fail(fmt.Sprintf("%s has %d replicas but min.insync.replicas=%d", c.Name, replicas, inSync),
				"a write is acknowledged by one broker alone; if that one dies, tasks are lost",
				fmt.Sprintf("kafka-configs --alter --topic %s --add-config min.insync.replicas=%d", c.Name, replicas-1))
		case inSync >= replicas:
			r.warn(fmt.Sprintf("%s has %d replicas and min.insync.replicas=%d", c.Name, replicas, inSync),
				"one broker that restarts stops every write", fmt.Sprintf("min.insync.replicas=%d", replicas-1))
		default:
			r.ok(fmt.Sprintf("%s: %d replicas, min.insync.replicas=%d", c.Name, replicas, inSync))
		}
	}
}

// horizon: a letter must not outlive the memory of what was done.
func horizon(p Patient, r *report) {
	h := p.Horizon
	if h == 0 {
		h = defaultHorizon
	}
	for _, name := range p.Catalog.QueueNames() {
		q := p.Catalog.Queues[name]
		if longest := max(q.Retention, q.DLQRetention); longest > h {
			r.warn(fmt.Sprintf("queue %s keeps records for %s, claims remember for %s", name, longest, h),
				"a record that is read again after that would run again", "lower retention or dlq_retention in the catalog")
		}
	}
}
