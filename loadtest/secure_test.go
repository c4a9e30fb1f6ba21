package loadtest

// The whole path against a broker that nobody reaches in the clear.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// Each role comes in another way: PLAIN, SCRAM (both), a token, a client
// certificate; and a task goes all the way.
func TestEveryWayIntoASecureKafka(t *testing.T) {
	t.Parallel()
	k := testkit.NewSecureKafka(t)
	const n = 200
	f := newFleet(t, &Ledger{}, patient)
	secret := func(name, text string) string { return f.write(name, text+"\n") }
	tls := []string{"PERDURE_KAFKA_TLS=true", "PERDURE_KAFKA_TLS_CA_FILE=" + k.Certificates.CA}
	sasl := func(mechanism, file string) []string {
		return append([]string{
			"PERDURE_KAFKA_BROKERS=" + k.SASL, "PERDURE_KAFKA_SASL_MECHANISM=" + mechanism,
			"PERDURE_KAFKA_SASL_USERNAME=" + k.User, "PERDURE_KAFKA_SASL_PASSWORD_FILE=" + file,
		}, tls...)
	}
	password := secret("password", k.Password)
	certificate := append([]string{
		"PERDURE_KAFKA_BROKERS=" + k.MTLS, "PERDURE_KAFKA_SASL_MECHANISM=", "PERDURE_KAFKA_SASL_USERNAME=", "PERDURE_KAFKA_SASL_PASSWORD_FILE=",
		"PERDURE_KAFKA_TLS_CERT_FILE=" + k.Certificates.ClientCert, "PERDURE_KAFKA_TLS_KEY_FILE=" + k.Certificates.ClientKey,
	}, tls...)

	f.env = append(f.env, sasl("PLAIN", password)...) // also of the commands
	f.start("dispatcher", "1")
	f.start("relay", "a", sasl("SCRAM-SHA-512", password)...)
	f.start("relay", "b", sasl("SCRAM-SHA-256", password)...)
	const lives = 6 * time.Second
	token := filepath.Join(f.dir, "token")
	renewToken(t, k, token, lives)
	f.start("worker", "1", sasl("OAUTHBEARER", token)...)
	began := time.Now()
	f.start("replayer", "1", certificate...)
	goes := func(file string, total int) {
		f.run("enqueue", "-f", file)
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			b := f.balance()
			return b.Completed == int64(total) && b.Lost == 0, fmt.Sprintf("balance: %+v", b)
		})
		if s := f.Ledger.Summary(); s.Applied != total || s.Tasks != total {
			t.Errorf("ledger %+v, want %d tasks applied", s, total)
		}
	}
	goes(f.write("rows.ndjson", ndjson(n, 100)), n)

	t.Run("refused", func(t *testing.T) { refusals(t, f, k, sasl, certificate, secret) })

	// The worker's first token has expired by then, and so has the second.
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return time.Since(began) > 2*lives+time.Second, "the tokens have not expired yet"
	})
	goes(f.write("more.ndjson", ndjson(n, 101)), 2*n)
}

// refusals: what does not get in says so at once and names the variable.
func refusals(t *testing.T, f *fleet, k testkit.SecureKafka, sasl func(string, string) []string, certificate []string, secret func(string, string) string) {
	wrong := secret("wrong", "not the password")
	for _, tt := range []struct {
		name string
		env  []string
		want string
	}{
		{"PLAIN, wrong password", sasl("PLAIN", wrong), "PERDURE_KAFKA_SASL_"},
		{"SCRAM-SHA-512, wrong password", sasl("SCRAM-SHA-512", wrong), "PERDURE_KAFKA_SASL_"},
		{"SCRAM-SHA-256, wrong password", sasl("SCRAM-SHA-256", wrong), "PERDURE_KAFKA_SASL_"},
		{"OAUTHBEARER, an expired token", sasl("OAUTHBEARER", secret("expired", k.Token(t, -time.Hour))), "PERDURE_KAFKA_SASL_"},
		{"another authority", append(sasl("PLAIN", wrong), "PERDURE_KAFKA_TLS_CA_FILE="+k.Certificates.OtherCA), "PERDURE_KAFKA_TLS_CA_FILE"},
		{"no authority", append(sasl("PLAIN", wrong), "PERDURE_KAFKA_TLS_CA_FILE="), "PERDURE_KAFKA_TLS_CA_FILE"},
		{"no TLS", append(sasl("PLAIN", wrong), "PERDURE_KAFKA_TLS=false", "PERDURE_KAFKA_TLS_CA_FILE="), "PERDURE_KAFKA_TLS"},
		{"no client certificate", append(append([]string{}, certificate...), "PERDURE_KAFKA_TLS_CERT_FILE=", "PERDURE_KAFKA_TLS_KEY_FILE="), "PERDURE_KAFKA_TLS_CERT_FILE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := f.command("relay")
			cmd.Env = append(append(append([]string{}, f.env...), tt.env...), "PERDURE_INSTANCE=refused", "PERDURE_HTTP_ADDR="+testkit.FreeAddr(t))
			began := time.Now()
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Fatalf("exit code %d, want 1: %s", cmd.ProcessState.ExitCode(), out)
			}
			if !strings.Contains(string(out), tt.want) {
				t.Errorf("it does not name %s: %s", tt.want, out)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it waited %v for what time does not heal", took)
			}
		})
	}
}

// renewToken writes a token that lives only so long, and a new one each second,
// until the test ends.
func renewToken(t *testing.T, k testkit.SecureKafka, file string, lives time.Duration) {
	t.Helper()
	renew := func() {
		if err := os.WriteFile(file+".new", []byte(k.Token(t, lives)), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Error(err)
		}
	}
	renew()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				renew()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}
