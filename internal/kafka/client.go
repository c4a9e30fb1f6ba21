package kafka

// Client options: the same brokers, security, limits and name for every role.

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
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
		kgo.DialTimeout(5 * time.Second),
		kgo.RequestTimeoutOverhead(10 * time.Second),
		kgo.MetadataMinAge(time.Second), // a new leader is found this soon
		kgo.MetadataMaxAge(time.Minute),
	}
	if log != nil {
		opts = append(opts, kgo.WithLogger(newLogger(log, c.KafkaSASLPassword)))
	}
	if c.KafkaTLS {
		t, err := tlsConfig(c)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(t))
	}
	mechanism, err := saslMechanism(c)
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

func tlsConfig(c config.Config) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.KafkaTLSCAFile != "" {
		pem, err := os.ReadFile(c.KafkaTLSCAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: PERDURE_KAFKA_TLS_CA_FILE: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka: PERDURE_KAFKA_TLS_CA_FILE: %s holds no certificate in PEM", c.KafkaTLSCAFile)
		}
	}
	if (c.KafkaTLSCertFile == "") != (c.KafkaTLSKeyFile == "") {
		return nil, fmt.Errorf("kafka: set both PERDURE_KAFKA_TLS_CERT_FILE and PERDURE_KAFKA_TLS_KEY_FILE, or none")
	}
	if c.KafkaTLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.KafkaTLSCertFile, c.KafkaTLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka: PERDURE_KAFKA_TLS_CERT_FILE and PERDURE_KAFKA_TLS_KEY_FILE: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func saslMechanism(c config.Config) (sasl.Mechanism, error) {
	user, password := c.KafkaSASLUsername, c.KafkaSASLPassword
	if c.KafkaSASLMechanism == "" {
		return nil, nil
	}
	if password == "" {
		return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_PASSWORD (or …_FILE) is needed for %s", c.KafkaSASLMechanism)
	}
	if user == "" && c.KafkaSASLMechanism != "OAUTHBEARER" {
		return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_USERNAME is needed for %s", c.KafkaSASLMechanism)
	}
	switch c.KafkaSASLMechanism {
	case "PLAIN":
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	case "OAUTHBEARER":
		return oauth.Auth{Zid: user, Token: password}.AsMechanism(), nil
	}
	return nil, fmt.Errorf("kafka: PERDURE_KAFKA_SASL_MECHANISM: want PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER")
}
