package kafka

// Client options: the same brokers, security, limits and name for every role.

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/perdure/perdure/internal/config"
)

// Sizes of the largest record on each kind of topic, in bytes.
const (
	MaxTaskRecord   = 3 << 19 // tasks.* and retry.*: 1.5 MiB, for a payload of 1 MiB
	MaxLetterRecord = 2 << 20 // dlq.*: the same record and its failures
	RecordOverhead  = 128 << 10
)

// ClientOpts returns the options that every client of this process begins with;
// the caller appends what its role needs (groups, topics, hooks). role and
// instance make the client.id perdure-<role>-<instance>; log may be nil.
//
// Left at the client's defaults: acks=all with idempotent production, no topic
// made by asking for it. Not set here, because only consumers need it: a group's
// options, and kgo.NoResetOffset, without which offsets that are out of range
// would be reset silently.
//
// An error names the variable to mend. No secret is ever in it.
func ClientOpts(c config.Config, role, instance string, log *slog.Logger) ([]kgo.Opt, error) {
	if len(c.KafkaBrokers) == 0 {
		return nil, fmt.Errorf("kafka: PERDURE_KAFKA_BROKERS is not set: name a broker, or start `perdure up`")
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.KafkaBrokers...),
		kgo.ClientID("perdure-" + role + "-" + instance),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		BatchLimit(Names{c.KafkaTopicPrefix}, MaxTaskRecord),
		CompressWhatShrinks(),
		kgo.DialTimeout(5 * time.Second),
		kgo.RequestTimeoutOverhead(10 * time.Second),
		kgo.MetadataMinAge(time.Second), // a new leader is found this soon
		kgo.MetadataMaxAge(time.Minute),
	}
	hidden := &secrets{}
	hidden.add(c.KafkaSASLPassword)
	if log != nil {
		opts = append(opts, kgo.WithLogger(newLogger(log, hidden)))
	}
	t, err := c.KafkaTLSConfig()
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if t != nil {
		opts = append(opts, kgo.DialTLSConfig(t))
	}
	mechanism, err := saslMechanism(c, hidden)
	if err != nil {
		return nil, err
	}
	if mechanism != nil {
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

// BatchLimit bounds what is sent at once by the topics' own limits: tasks bytes
// for all but dead letters. Give it after ClientOpts where topics that we did not
// make take less than MaxTaskRecord.
func BatchLimit(names Names, tasks int32) kgo.Opt {
	letters := names.DLQ("")
	return kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
		if strings.HasPrefix(topic, letters) {
			return max(tasks, MaxLetterRecord)
		}
		return tasks
	})
}

// saslMechanism asks for the password or token at each authentication: one in a
// file may have been renewed since.
func saslMechanism(c config.Config, hidden *secrets) (sasl.Mechanism, error) {
	user := c.KafkaSASLUsername
	if c.KafkaSASLMechanism == "" {
		return nil, nil
	}
	if c.KafkaSASLPassword == "" {
		return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_PASSWORD (or …_FILE) is needed for %s", c.KafkaSASLMechanism)
	}
	if user == "" && c.KafkaSASLMechanism != "OAUTHBEARER" {
		return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_USERNAME is needed for %s", c.KafkaSASLMechanism)
	}
	secret := func() (string, error) {
		s, err := c.KafkaSASLSecret()
		if err != nil {
			return "", fmt.Errorf("kafka: %w", err)
		}
		hidden.add(s)
		return s, nil
	}
	scrams := func(context.Context) (scram.Auth, error) {
		s, err := secret()
		return scram.Auth{User: user, Pass: s}, err
	}
	switch c.KafkaSASLMechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			s, err := secret()
			return plain.Auth{User: user, Pass: s}, err
		}), nil
	case "SCRAM-SHA-256":
		return scram.Sha256(scrams), nil
	case "SCRAM-SHA-512":
		return scram.Sha512(scrams), nil
	case "OAUTHBEARER":
		return explainedToken{oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			s, err := secret()
			return oauth.Auth{Zid: user, Token: s}, err
		})}, nil
	}
	return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_MECHANISM: want PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER")
}
