package loadtest

// What /readyz says while a server is away.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/testkit"
)

// A worker without Kafka is not ready and says why; a dispatcher says it too,
// and goes on: it accepts tasks with Postgres alone.
func TestReadyzTellsThatKafkaIsAway(t *testing.T) {
	f := newFleet(t, &Ledger{}, patient)
	kafka, err := embedded.StartKafka(t.Context(), embedded.KafkaConfig{})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = kafka.Close()
		}
	}()
	f.env = append(f.env, "PERDURE_KAFKA_BROKERS="+strings.Join(kafka.Brokers(), ","))
	dispatcher, relay, worker := f.start("dispatcher", "1"), f.start("relay", "1"), f.start("worker", "1")

	closed = true
	if err := kafka.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*role{relay, worker} {
		testkit.Eventually(t, 30*time.Second, func() (bool, string) {
			code, body := get(r.addr, "/readyz")
			return code == http.StatusServiceUnavailable && strings.Contains(body, "kafka"), fmt.Sprintf("%s: %d %s", r.name, code, body)
		})
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		code, body := get(dispatcher.addr, "/readyz")
		return code == http.StatusOK && strings.Contains(body, `"advice":true`) && strings.Contains(body, "kafka"), fmt.Sprintf("%d %s", code, body)
	})
	f.run("enqueue", "-f", f.write("one.ndjson", ndjson(1, 1)))
}
