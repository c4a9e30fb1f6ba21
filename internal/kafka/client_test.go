package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
)

const secret = "hunter2-but-longer"

func TestClientSaysWhoItIs(t *testing.T) {
	s := testkit.Kafka(t)
	opts, err := kafka.ClientOpts(config.Config{KafkaBrokers: s.Brokers}, "relay", "host-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Ping(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if id, ok := cl.OptValue(kgo.ClientID).(string); !ok || id != "perdure-relay-host-1" {
		t.Errorf("client.id is %v", cl.OptValue(kgo.ClientID))
	}
}

func TestClientAuthenticates(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser(mechanism, "ann", secret))
			if err != nil {
				t.Fatal(err)
			}
			defer cluster.Close()
			c := config.Config{KafkaBrokers: cluster.ListenAddrs(), KafkaSASLMechanism: mechanism,
				KafkaSASLUsername: "ann", KafkaSASLPassword: secret}
			if err := ping(t, c, slog.New(slog.DiscardHandler), 20*time.Second); err != nil {
				t.Errorf("right password: %v", err)
			}
			c.KafkaSASLPassword = "wrong-" + secret
			var out lockedBuffer
			log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
			if err := ping(t, c, log, time.Second); err == nil {
				t.Error("a wrong password was let in")
			}
			if strings.Contains(out.String(), secret) {
				t.Error("the password stands in the log")
			}
			if !strings.Contains(out.String(), "part=kafka") {
				t.Errorf("the client logged nothing: %s", out.String())
			}
		})
	}
}

func TestLogHidesSecretsWhereverTheyStand(t *testing.T) {
	var out lockedBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	opts, err := kafka.ClientOpts(config.Config{KafkaBrokers: []string{"127.0.0.1:1"}, KafkaSASLMechanism: "PLAIN",
		KafkaSASLUsername: "ann", KafkaSASLPassword: secret}, "worker", "a", log)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	logger, ok := cl.OptValue(kgo.WithLogger).(kgo.Logger)
	if !ok {
		t.Fatal("the client has no logger")
	}
	logger.Log(kgo.LogLevelWarn, "refused "+secret, "err", errors.New("bad "+secret), "access_token", "other-"+"token-value", "broker", 7)
	logger.Log(kgo.LogLevelInfo, "chatter")
	got := out.String()
	if strings.Contains(got, secret) || strings.Contains(got, "token-value") {
		t.Errorf("a secret stands in the log: %s", got)
	}
	if !strings.Contains(got, "level=WARN") || !strings.Contains(got, "broker=7") || strings.Contains(got, "chatter") {
		t.Errorf("logged: %s", got)
	}
	if logger.Level() != kgo.LogLevelWarn {
		t.Errorf("at our info, the client's level is %s", logger.Level())
	}
}

// kfake has no OAUTHBEARER, so it is the mechanism's own first message that is read.
func TestClientSendsOAuthBearer(t *testing.T) {
	opts, err := kafka.ClientOpts(config.Config{KafkaBrokers: []string{"127.0.0.1:1"},
		KafkaSASLMechanism: "OAUTHBEARER", KafkaSASLPassword: secret}, "worker", "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	mechanisms, ok := cl.OptValue(kgo.SASL).([]sasl.Mechanism)
	if !ok || len(mechanisms) != 1 || mechanisms[0].Name() != "OAUTHBEARER" {
		t.Fatalf("mechanisms are %v", cl.OptValue(kgo.SASL))
	}
	if _, first, err := mechanisms[0].Authenticate(t.Context(), "127.0.0.1:1"); err != nil || !bytes.Contains(first, []byte("auth=Bearer "+secret)) {
		t.Errorf("the token is not in the first message: %v", err)
	}
}

func TestClientSpeaksTLSBothWays(t *testing.T) {
	files, server := certificates(t)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(server))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	c := config.Config{KafkaBrokers: cluster.ListenAddrs(), KafkaTLS: true,
		KafkaTLSCAFile: files.ca, KafkaTLSCertFile: files.cert, KafkaTLSKeyFile: files.key}
	log := slog.New(slog.DiscardHandler)
	if err := ping(t, c, log, 20*time.Second); err != nil {
		t.Errorf("with the right authority and certificate: %v", err)
	}
	noCA := c
	noCA.KafkaTLSCAFile = ""
	if err := ping(t, noCA, log, time.Second); err == nil {
		t.Error("a server of an unknown authority was trusted")
	}
	noCert := c
	noCert.KafkaTLSCertFile, noCert.KafkaTLSKeyFile = "", ""
	if err := ping(t, noCert, log, time.Second); err == nil {
		t.Error("the server asks for a client certificate, and none was sent, yet it answered")
	}
}

func TestClientOptsRefusesWhatCannotWork(t *testing.T) {
	files, _ := certificates(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := config.Config{KafkaBrokers: []string{"a:9092"}}
	for name, test := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"no brokers":   {func(c *config.Config) { c.KafkaBrokers = nil }, "PERDURE_KAFKA_BROKERS"},
		"no such CA":   {func(c *config.Config) { c.KafkaTLS = true; c.KafkaTLSCAFile = empty + "x" }, "PERDURE_KAFKA_TLS_CA_FILE"},
		"empty CA":     {func(c *config.Config) { c.KafkaTLS = true; c.KafkaTLSCAFile = empty }, "no certificate"},
		"cert, no key": {func(c *config.Config) { c.KafkaTLS = true; c.KafkaTLSCertFile = files.cert }, "set both"},
		"cert is no key": {func(c *config.Config) {
			c.KafkaTLS = true
			c.KafkaTLSCertFile, c.KafkaTLSKeyFile = files.cert, files.cert
		}, "PERDURE_KAFKA_TLS_KEY_FILE"},
		"no password": {func(c *config.Config) { c.KafkaSASLMechanism = "PLAIN"; c.KafkaSASLUsername = "u" }, "PERDURE_KAFKA_SASL_PASSWORD"},
		"no user":     {func(c *config.Config) { c.KafkaSASLMechanism = "PLAIN"; c.KafkaSASLPassword = secret }, "PERDURE_KAFKA_SASL_USERNAME"},
		"mechanism": {func(c *config.Config) {
			c.KafkaSASLMechanism, c.KafkaSASLUsername, c.KafkaSASLPassword = "GSSAPI", "u", secret
		}, "PERDURE_KAFKA_SASL_MECHANISM"},
	} {
		c := good
		test.change(&c)
		_, err := kafka.ClientOpts(c, "worker", "a", nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error is %v, want one that names %s", name, err, test.want)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the secret stands in the error", name)
		}
	}
}

func ping(t *testing.T, c config.Config, log *slog.Logger, limit time.Duration) error {
	t.Helper()
	opts, err := kafka.ClientOpts(c, "worker", "a", log)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return cl.Ping(ctx)
}

type pemFiles struct{ ca, cert, key string }

// certificates makes an authority, and what server and client need of it.
func certificates(t *testing.T) (pemFiles, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := pemFiles{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for path, data := range map[string][]byte{files.ca: cert, files.cert: cert, files.key: keyPEM} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return files, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
}

// lockedBuffer is written by the client's goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
