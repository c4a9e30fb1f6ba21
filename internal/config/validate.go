package config

// What a Config must look like before anything is connected.

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perdure/perdure/schemas"
)

// saslMechanisms are the ones that KAFKA_SASL_MECHANISM may name.
var saslMechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}

// maxConcurrency is what schemas allows a kind, too.
const maxConcurrency = 100_000

// validate returns everything that is wrong, never a secret's value.
func (c *Config) validate() []error {
	var errs []error
	wrong := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("PERDURE_"+name+": "+format, args...))
	}
	if !schemas.ValidSource(c.Source) {
		wrong("SOURCE", "%q cannot name a source: 1 to 32 of a-z, 0-9 and dash, a letter or digit at both ends", c.Source)
	}
	if c.History < time.Minute {
		wrong("HISTORY", "%s is too short: at least 1m", c.History)
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		wrong("CONCURRENCY", "%d attempts at once: 1 to %d", c.Concurrency, maxConcurrency)
	}
	if c.OutboxLimit < 0 {
		wrong("OUTBOX_LIMIT", "%d is negative; 0 is no limit", c.OutboxLimit)
	}
	if !slices.Contains([]string{"", "text", "json"}, c.LogFormat) {
		wrong("LOG_FORMAT", "%q is neither text nor json", c.LogFormat)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, strings.ToLower(c.LogLevel)) {
		wrong("LOG_LEVEL", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	if c.HTTPAddr != "" {
		if why := badHostPort(c.HTTPAddr, true); why != "" {
			wrong("HTTP_ADDR", "%q %s", c.HTTPAddr, why)
		}
	}
	if c.APIURL != "" {
		if u, err := url.Parse(c.APIURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			wrong("API_URL", "not an http:// or https:// address")
		}
	}
	if c.Instance != "" && !validInstance(c.Instance) {
		wrong("INSTANCE", "%q cannot name a process: 1 to 120 of letters, digits, dot, dash and underscore", c.Instance)
	}
	for _, u := range []struct{ name, value string }{{"POSTGRES_URL", c.PostgresURL}, {"POSTGRES_DIRECT_URL", c.PostgresDirectURL}} {
		if u.value != "" && !looksLikePostgres(u.value) {
			wrong(u.name, "not a postgres://user@host:port/database address")
		}
	}
	for _, a := range c.RedisAddrs {
		if why := badHostPort(a, false); why != "" {
			wrong("REDIS_ADDRS", "%q %s", a, why)
		}
	}
	if c.RedisCluster && c.RedisMasterName != "" {
		wrong("REDIS_CLUSTER", "cannot be combined with PERDURE_REDIS_MASTER_NAME: a cluster has no sentinels")
	}
	if c.RedisMasterName == "" && (c.RedisSentinelUsername != "" || c.RedisSentinelPassword != "") {
		wrong("REDIS_SENTINEL_PASSWORD", "set although PERDURE_REDIS_MASTER_NAME is not: there are no sentinels to send it to")
	}
	errs = append(errs, validateTLS(redisTLS, c.RedisTLS, c.RedisTLSCAFile, c.RedisTLSCertFile, c.RedisTLSKeyFile)...)
	for _, a := range c.KafkaBrokers {
		if why := badHostPort(a, false); why != "" {
			wrong("KAFKA_BROKERS", "%q %s", a, why)
		}
	}
	errs = append(errs, c.validateKafkaSecurity()...)
	if c.KafkaTopics != "create" && c.KafkaTopics != "check" {
		wrong("KAFKA_TOPICS", "%q is neither create nor check", c.KafkaTopics)
	}
	if !validTopicPrefix(c.KafkaTopicPrefix) {
		wrong("KAFKA_TOPIC_PREFIX", "%q: at most 60 of letters, digits, dot, dash and underscore", c.KafkaTopicPrefix)
	}
	return errs
}

func (c *Config) validateKafkaSecurity() []error {
	errs := validateTLS(kafkaTLS, c.KafkaTLS, c.KafkaTLSCAFile, c.KafkaTLSCertFile, c.KafkaTLSKeyFile)
	switch {
	case c.KafkaSASLMechanism == "":
		if c.KafkaSASLUsername != "" || c.KafkaSASLPassword != "" {
			errs = append(errs, fmt.Errorf("PERDURE_KAFKA_SASL_MECHANISM: not set although a SASL user or password is; one of %s", strings.Join(saslMechanisms, ", ")))
		}
	case !slices.Contains(saslMechanisms, c.KafkaSASLMechanism):
		errs = append(errs, fmt.Errorf("PERDURE_KAFKA_SASL_MECHANISM: %q is none of %s", c.KafkaSASLMechanism, strings.Join(saslMechanisms, ", ")))
	case c.KafkaSASLPassword == "":
		errs = append(errs, fmt.Errorf("PERDURE_KAFKA_SASL_PASSWORD (or …_FILE): needed for %s", c.KafkaSASLMechanism))
	}
	return errs
}

// looksLikePostgres accepts what libpq accepts, roughly: a URL or key=value words.
func looksLikePostgres(s string) bool {
	if u, err := url.Parse(s); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		return true
	}
	return !strings.Contains(s, "://") && strings.Contains(s, "=")
}

// badHostPort says what is wrong with an address, "" if nothing is.
func badHostPort(addr string, listen bool) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "is not host:port"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 || (n == 0 && !listen) {
		return "has no port from 1 to 65535"
	}
	if host == "" && !listen {
		return "has no host"
	}
	return ""
}

func validInstance(s string) bool { return len(s) <= 120 && onlyNameBytes(s) }

func validTopicPrefix(s string) bool { return len(s) <= 60 && onlyNameBytes(s) }

func onlyNameBytes(s string) bool {
	for i := range len(s) {
		b := s[i]
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '-' && b != '_' {
			return false
		}
	}
	return true
}
