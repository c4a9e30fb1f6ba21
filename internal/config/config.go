// Package config reads what every Perdure process is told by its environment:
// PERDURE_* variables, secrets also as NAME_FILE, and, where no server is
// named, the perdure.env that a running `perdure up` left in the data folder.
package config

import "time"

// Config is the whole environment of a process. The zero value of a field
// means "not set"; Load fills in defaults.
//
// The tags are the contract: `perdure config` prints each variable with its
// value, default and meaning from them. They hold the full name, because
// envconfig with a prefix would fall back to the bare one, and SOURCE, HISTORY
// or HTTP_ADDR in somebody's environment are not meant for us.
type Config struct {
	Source  string `envconfig:"PERDURE_SOURCE" default:"main" desc:"name of the producing database; part of every task id"`
	Catalog string `envconfig:"PERDURE_CATALOG" default:"catalog.yaml" desc:"file of kinds, queues and dependencies"`

	HTTPAddr string `envconfig:"PERDURE_HTTP_ADDR" desc:"address to listen on; /v1 only on loopback unless API_TOKENS_FILE is set"`
	APIURL   string `envconfig:"PERDURE_API_URL" default:"http://127.0.0.1:17070" desc:"where the command line finds the API"`
	DataDir  string `envconfig:"PERDURE_DATA_DIR" desc:"folder for embedded servers, perdure.env and instance slots"`
	Instance string `envconfig:"PERDURE_INSTANCE" desc:"name of this process, unique in the fleet, the same after a restart"`
	Release  string `envconfig:"PERDURE_RELEASE" desc:"version of the user's code, kept with each failure"`

	Concurrency int64 `envconfig:"PERDURE_CONCURRENCY" default:"64" desc:"attempts that one worker runs at once, over all its kinds; 1 to 100000"`

	History   time.Duration `envconfig:"PERDURE_HISTORY" default:"168h" desc:"how long relayed outbox rows, the relay log and task events are kept"`
	LogFormat string        `envconfig:"PERDURE_LOG_FORMAT" desc:"text or json; default text on a terminal, else json"`
	LogLevel  string        `envconfig:"PERDURE_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`

	OutboxLimit int64 `envconfig:"PERDURE_OUTBOX_LIMIT" default:"10000000" desc:"outbox rows that may wait for the relay; more, and the HTTP API answers 503; 0 is any number"`

	PostgresURL       string `envconfig:"PERDURE_POSTGRES_URL" secret:"url" desc:"outbox database"`
	PostgresDirectURL string `envconfig:"PERDURE_POSTGRES_DIRECT_URL" secret:"url" desc:"the same database without a transaction pooler, for relay and migrate; default POSTGRES_URL"`

	RedisAddrs            []string `envconfig:"PERDURE_REDIS_ADDRS" desc:"host:port, comma-separated"`
	RedisUsername         string   `envconfig:"PERDURE_REDIS_USERNAME" desc:"ACL user"`
	RedisPassword         string   `envconfig:"PERDURE_REDIS_PASSWORD" secret:"value" desc:"password"`
	RedisTLS              bool     `envconfig:"PERDURE_REDIS_TLS" desc:"connect by TLS"`
	RedisTLSCAFile        string   `envconfig:"PERDURE_REDIS_TLS_CA_FILE" desc:"PEM of the authority that signed Redis's certificate; default the machine's"`
	RedisTLSCertFile      string   `envconfig:"PERDURE_REDIS_TLS_CERT_FILE" desc:"PEM of the client certificate"`
	RedisTLSKeyFile       string   `envconfig:"PERDURE_REDIS_TLS_KEY_FILE" desc:"PEM of the client key"`
	RedisMasterName       string   `envconfig:"PERDURE_REDIS_MASTER_NAME" desc:"Sentinel's name of the master; REDIS_ADDRS are sentinels then"`
	RedisSentinelUsername string   `envconfig:"PERDURE_REDIS_SENTINEL_USERNAME" desc:"ACL user of the sentinels, where they have one"`
	RedisSentinelPassword string   `envconfig:"PERDURE_REDIS_SENTINEL_PASSWORD" secret:"value" desc:"password of the sentinels, where they have one"`
	RedisCluster          bool     `envconfig:"PERDURE_REDIS_CLUSTER" desc:"REDIS_ADDRS are nodes of a cluster"`
	RedisKeyPrefix        string   `envconfig:"PERDURE_REDIS_KEY_PREFIX" default:"perdure:" desc:"begins every key"`

	KafkaBrokers       []string `envconfig:"PERDURE_KAFKA_BROKERS" desc:"host:port, comma-separated"`
	KafkaTLS           bool     `envconfig:"PERDURE_KAFKA_TLS" desc:"connect by TLS"`
	KafkaTLSCAFile     string   `envconfig:"PERDURE_KAFKA_TLS_CA_FILE" desc:"PEM of the authority that signed the brokers' certificates; default the machine's"`
	KafkaTLSCertFile   string   `envconfig:"PERDURE_KAFKA_TLS_CERT_FILE" desc:"PEM of the client certificate"`
	KafkaTLSKeyFile    string   `envconfig:"PERDURE_KAFKA_TLS_KEY_FILE" desc:"PEM of the client key"`
	KafkaSASLMechanism string   `envconfig:"PERDURE_KAFKA_SASL_MECHANISM" desc:"PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"`
	KafkaSASLUsername  string   `envconfig:"PERDURE_KAFKA_SASL_USERNAME" desc:"user"`
	KafkaSASLPassword  string   `envconfig:"PERDURE_KAFKA_SASL_PASSWORD" secret:"value" desc:"password, or the token of OAUTHBEARER; from a _FILE it is read again for each connection"`
	KafkaTopics        string   `envconfig:"PERDURE_KAFKA_TOPICS" default:"create" desc:"create: make missing topics; check: only compare them with the catalog"`
	KafkaTopicPrefix   string   `envconfig:"PERDURE_KAFKA_TOPIC_PREFIX" desc:"begins every topic and group"`

	APITokensFile string `envconfig:"PERDURE_API_TOKENS_FILE" desc:"file of API tokens with their verbs"`
	APIToken      string `envconfig:"PERDURE_API_TOKEN" secret:"value" desc:"the command line's token"`

	origin map[string]Origin // by variable; nil in a Config that Load did not make
	files  map[string]string // by variable: the file that a secret was read from
}
