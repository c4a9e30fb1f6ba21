// A Kafka that wants TLS and a password, a token or a certificate.

package testkit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// EnvKafkaLib is the folder of Apache Kafka's jars, for tests that start a
// broker of their own; `.ci/servers` sets it.
const EnvKafkaLib = "PERDURE_TEST_KAFKA_LIB"

// SecureKafka is a broker of one test that nobody reaches in the clear.
type SecureKafka struct {
	SASL         string // host:port: TLS, then PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER
	MTLS         string // host:port: TLS, with a client certificate
	User         string // of PLAIN and SCRAM
	Password     string
	Certificates Certificates
}

// NewSecureKafka starts one. It is skipped where there is no Kafka to start
// ([EnvKafkaLib] and Java), and fails there under PERDURE_TEST_REQUIRE_REAL=1.
func NewSecureKafka(t testing.TB) SecureKafka {
	t.Helper()
	lib, java := os.Getenv(EnvKafkaLib), ""
	var err error
	if lib == "" {
		err = fmt.Errorf("%s is not set: run the test by `.ci/with-servers`", EnvKafkaLib)
	} else {
		java, err = exec.LookPath("java")
	}
	if err != nil && requireReal() {
		t.Fatalf("testkit: a Kafka of the test's own: %v", err)
	}
	if err != nil {
		t.Skipf("testkit: a Kafka of the test's own: %v", err)
	}
	k := SecureKafka{SASL: FreeAddr(t), MTLS: FreeAddr(t), User: "perdure", Password: "s3cret=/+", Certificates: NewCertificates(t)}
	dir := t.TempDir()
	props := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(props, []byte(k.properties(dir, FreeAddr(t), FreeAddr(t))), 0o600); err != nil {
		t.Fatalf("testkit: %v", err)
	}
	jvm := []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx400m", "-cp", filepath.Join(lib, "*")}
	format := append(jvm, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", props)
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		format = append(format, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, k.User, k.Password))
	}
	if out, err := exec.Command(java, format...).CombinedOutput(); err != nil {
		t.Fatalf("testkit: format Kafka's storage: %v\n%s", err, out)
	}
	broker := spawn(t, dir, "kafka", java, append(jvm, "kafka.Kafka", props)...)
	t.Cleanup(func() { broker.kill(t) })
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.MTLS), kgo.DialTLSConfig(k.clientTLS(t)))
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	defer cl.Close()
	Eventually(t, time.Minute, func() (bool, string) {
		select {
		case <-broker.done:
			t.Fatalf("testkit: Kafka with TLS and SASL ended at once\n%s", broker.tail())
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := cl.Ping(ctx); err != nil {
			return false, fmt.Sprintf("Kafka with TLS and SASL: %v\n%s", err, broker.tail())
		}
		return true, ""
	})
	used.tell("kafka     with TLS and SASL, owned by a test")
	return k
}

// properties is the broker's configuration. The listeners inside lets it speak
// with itself in the clear.
func (k SecureKafka) properties(dir, inside, quorum string) string {
	jaas := "org.apache.kafka.common.security."
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[5]s
listeners=IN://%[4]s,SASL://%[2]s,MTLS://%[3]s,CONTROLLER://%[5]s
advertised.listeners=IN://%[4]s,SASL://%[2]s,MTLS://%[3]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=IN
listener.security.protocol.map=IN:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MTLS:SSL
log.dirs=%[1]s/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
ssl.keystore.type=PEM
ssl.keystore.location=%[6]s
ssl.truststore.type=PEM
ssl.truststore.location=%[7]s
listener.name.mtls.ssl.client.auth=required
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl.connections.max.reauth.ms=3600000
listener.name.sasl.plain.sasl.jaas.config=%[8]splain.PlainLoginModule required user_%[9]s="%[10]s";
listener.name.sasl.scram-sha-256.sasl.jaas.config=%[8]sscram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=%[8]sscram.ScramLoginModule required;
listener.name.sasl.oauthbearer.sasl.jaas.config=%[8]soauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="unused";
`, dir, k.SASL, k.MTLS, inside, quorum, k.Certificates.ServerPair, k.Certificates.CA, jaas, k.User, k.Password)
}

func (k SecureKafka) clientTLS(t testing.TB) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(k.Certificates.ClientCert, k.Certificates.ClientKey)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	ca, err := os.ReadFile(k.Certificates.CA)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// Token is an OAUTHBEARER token that the broker accepts for as long: its
// validator is Kafka's own for tests, which wants no signature.
func (k SecureKafka) Token(t testing.TB, lives time.Duration) string {
	t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"sub": k.User, "iat": now.Add(-time.Second).Unix(), "exp": now.Add(lives).Unix(),
	})
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"none"}`)) + "." + b64(claims) + "."
}
