// Package config reads what every Perdure process is told by its environment:
// PERDURE_* variables, secrets also as NAME_FILE, and, where no server is
// named, the perdure.env that a running `perdure up` left in the data folder.
package config

import "time"

// Config is the whole environment of a process. The zero value of a field
// means "not set"; Load fills in defaults.
//
// The tags are the contract: `perdure config` prints each variable with its
// value, default and meaning from them.
type Config struct {
	Source  string `envconfig:"SOURCE" default:"main" desc:"name of the producing database; part of every task id"`
	Catalog string `envconfig:"CATALOG" default:"catalog.yaml" desc:"file of kinds, queues and dependencies"`

	HTTPAddr string `envconfig:"HTTP_ADDR" desc:"address to listen on; /v1 only on loopback unless API_TOKENS_FILE is set"`
	APIURL   string `envconfig:"API_URL" desc:"where the command line finds the API"`
	DataDir  string `envconfig:"DATA_DIR" desc:"folder for embedded servers, perdure.env and instance slots"`
	Instance string `envconfig:"INSTANCE" desc:"name of this process, unique in the fleet, the same after a restart"`
	Release  string `envconfig:"RELEASE" desc:"version of the user's code, kept with each failure"`

	History   time.Duration `envconfig:"HISTORY" default:"168h" desc:"how long relayed outbox rows, the relay log and task events are kept"`
	LogFormat string        `envconfig:"LOG_FORMAT" desc:"text or json; default text on a terminal, else json"`
	LogLevel  string        `envconfig:"LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`

	PostgresURL       string `envconfig:"POSTGRES_URL" secret:"url" desc:"outbox database"`
	PostgresDirectURL string `envconfig:"POSTGRES_DIRECT_URL" secret:"url" desc:"the same database without a transaction pooler, for relay and migrate; default POSTGRES_URL"`

	RedisAddrs      []string `envconfig:"REDIS_ADDRS" desc:"host:port, comma-separated"`
	RedisUsername   string   `envconfig:"REDIS_USERNAME" desc:"ACL user"`
	RedisPassword   string   `envconfig:"REDIS_PASSWORD" secret:"value" desc:"password"`
	RedisTLS        bool     `envconfig:"REDIS_TLS" desc:"connect by TLS"`
	RedisMasterName string   `envconfig:"REDIS_MASTER_NAME" desc:"Sentinel's name of the master; REDIS_ADDRS are sentinels then"`
	RedisCluster    bool     `envconfig:"REDIS_CLUSTER" desc:"REDIS_ADDRS are nodes of a cluster"`
	RedisKeyPrefix  string   `envconfig:"REDIS_KEY_PREFIX" default:"perdure:" desc:"begins every key"`

	KafkaBrokers       []string `envconfig:"KAFKA_BROKERS" desc:"host:port, comma-separated"`
	KafkaTLS           bool     `envconfig:"KAFKA_TLS" desc:"connect by TLS"`
	KafkaTLSCAFile     string   `envconfig:"KAFKA_TLS_CA_FILE" desc:"PEM of the authority that signed the brokers"`
	KafkaTLSCertFile   string   `envconfig:"KAFKA_TLS_CERT_FILE" desc:"PEM of the client certificate"`
	KafkaTLSKeyFile    string   `envconfig:"KAFKA_TLS_KEY_FILE" desc:"PEM of the client key"`
	KafkaSASLMechanism string   `envconfig:"KAFKA_SASL_MECHANISM" desc:"PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"`
	KafkaSASLUsername  string   `envconfig:"KAFKA_SASL_USERNAME" desc:"user"`
	KafkaSASLPassword  string   `envconfig:"KAFKA_SASL_PASSWORD" secret:"value" desc:"password, or the token of OAUTHBEARER"`
	KafkaTopics        string   `envconfig:"KAFKA_TOPICS" default:"create" desc:"create: make missing topics; check: only compare them with the catalog"`
	KafkaTopicPrefix   string   `envconfig:"KAFKA_TOPIC_PREFIX" desc:"begins every topic and group"`

	APITokensFile string `envconfig:"API_TOKENS_FILE" desc:"file of API tokens with their verbs"`
	APIToken      string `envconfig:"API_TOKEN" secret:"value" desc:"the command line's token"`
}
