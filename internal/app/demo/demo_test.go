package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/app/demo"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) {
	// The demo starts this test binary as its worker processes.
	if len(os.Args) == 3 && os.Args[1] == "demo-worker" {
		os.Exit(workerProcess(os.Args[2]))
	}
	testkit.Main(m)
}

func workerProcess(bankURL string) int {
	ctx, stop := service.Signals(context.Background())
	defer stop()
	err := demo.Worker(ctx, os.Stderr, bankURL, os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// journal is a story that can be read while it is told.
type journal struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all.String()
}

// options are a demo on embedded servers over the given input.
func options(t *testing.T, input io.Reader, out io.Writer) demo.Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PERDURE_") && !strings.HasPrefix(name, "PERDURE_TEST_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("TMPDIR", t.TempDir()) // where its folder is looked for afterwards
	if err := os.Chmod(os.Getenv("TMPDIR"), 0o711); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	return demo.Options{Config: cfg, Input: input, Out: out, Child: []string{self, "demo-worker"}, Feed: 3 * time.Second}
}

// leftovers are folders that the demo should have removed.
func leftovers(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "perdure-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// head is the first n lines of the example's input.
func head(t *testing.T, n int) io.Reader {
	t.Helper()
	lines := bytes.SplitAfterN(disputes.Input(), []byte("\n"), n+1)
	return bytes.NewReader(bytes.Join(lines[:n], nil))
}

// TestDemo: 400 disputes through an outage and a SIGKILL (I1, I2, I7).
func TestDemo(t *testing.T) {
	var told journal
	res, err := demo.Run(t.Context(), options(t, head(t, 400), &told))
	if err != nil {
		t.Fatalf("%v\n%s", err, told.String())
	}
	// Of 400 lines, 97, 194, 291 and 388 are malformed and 311 is poison.
	if res.Accepted != 396 || res.Rejected != 4 || res.Dead != 1 || res.Completed != 395 || res.Replayed == 0 {
		t.Errorf("got %s\n%s", res, told.String())
	}
	if err := res.Err(); err != nil || res.Accepted != res.Completed+res.Dead+res.Lost {
		t.Errorf("the ledger does not balance: %v: %s", err, res)
	}
	want := regexp.MustCompile(`^accepted=396 completed=395 dead=1 replayed=\d+ rejected=4 lost=0 duplicate_effects=0$`)
	if !want.MatchString(res.String()) {
		t.Errorf("last line %q", res)
	}
	for _, event := range []string{"the bank fails", "SIGKILL to worker process", "the bank is back", "policy:bank-is-back is replaying group", "left dead: group"} {
		if !strings.Contains(told.String(), event) {
			t.Errorf("the story lacks %q:\n%s", event, told.String())
		}
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemoOtherInput: what is no dispute is rejected, twice the same is one.
func TestDemoOtherInput(t *testing.T) {
	const good = `{"dispute_id":"dp_%d","charge_id":"ch_1","amount_cents":100,"currency":"EUR","reason":"duplicate","evidence":["x"]}` + "\n"
	input := fmt.Sprintf(good, 1) + "\n \n" + `{"nonsense":true}` + "\n" + "\x00\xff\n" + strings.Repeat("[", 10_000) + "\n" +
		fmt.Sprintf(good, 1) + strings.Replace(fmt.Sprintf(good, 1), "100", "999", 1) +
		`{"big":"` + strings.Repeat("x", 2<<20) + `"}` + "\n" + strings.TrimSuffix(fmt.Sprintf(good, 2), "\n")
	var told journal
	res, err := demo.Run(t.Context(), options(t, strings.NewReader(input), &told))
	if err != nil {
		t.Fatalf("%v\n%s", err, told.String())
	}
	if got := res.String(); got != "accepted=2 completed=2 dead=0 replayed=0 rejected=6 lost=0 duplicate_effects=0" {
		t.Errorf("got %s\n%s", got, told.String())
	}
}

// TestDemoInterrupted: Ctrl-C leaves no folder and no process behind.
func TestDemoInterrupted(t *testing.T) {
	var told journal
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	opts := options(t, head(t, 2000), &told)
	opts.Feed = time.Minute
	go func() {
		_, err := demo.Run(ctx, opts)
		ended <- err
	}()
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		return strings.Contains(told.String(), "taken in"), told.String()
	})
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("does not stop")
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemoOnServersThatAreNotItsOwn: it works on its own database, topics and
// keys, and takes them away again.
func TestDemoOnServersThatAreNotItsOwn(t *testing.T) {
	db, k, r := testkit.Postgres(t), testkit.Kafka(t), testkit.Redis(t)
	var told journal
	opts := options(t, head(t, 120), &told)
	opts.Config.PostgresURL, opts.Config.RedisAddrs, opts.Config.RedisKeyPrefix = db.URL, []string{r.Addr}, r.Prefix
	opts.Config.KafkaBrokers, opts.Config.KafkaTopicPrefix = k.Brokers, k.Prefix
	res, err := demo.Run(t.Context(), opts)
	if err != nil || res.Err() != nil || res.Accepted != 119 || res.Completed != 119 {
		t.Fatalf("%s, %v\n%s", res, err, told.String())
	}
	if strings.Contains(told.String(), "(embedded") {
		t.Errorf("an embedded server was used:\n%s", told.String())
	}
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var left int
	if err := conn.QueryRow(t.Context(), `select (select count(*) from pg_database where datname like 'perdure_demo_%') + (select count(*) from pg_namespace where nspname in ('perdure', 'disputes'))`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d databases or schemas are left: %v", left, err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	topics, err := kadm.NewClient(cl).ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics.Names() {
		if strings.HasPrefix(topic, k.Prefix) {
			t.Errorf("topic %s is left", topic)
		}
	}
	rdb := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer rdb.Close()
	if keys, err := rdb.Keys(t.Context(), r.Prefix+"*").Result(); err != nil || len(keys) != 0 {
		t.Errorf("keys are left: %v, %v", keys, err)
	}
}

// TestDemoOfNothing: a file without a single dispute is no reason to fail.
func TestDemoOfNothing(t *testing.T) {
	for input, rejected := range map[string]int{"garbage\n": 1, "": 0} {
		var told journal
		res, err := demo.Run(t.Context(), options(t, strings.NewReader(input), &told))
		want := fmt.Sprintf("accepted=0 completed=0 dead=0 replayed=0 rejected=%d lost=0 duplicate_effects=0", rejected)
		if err != nil || res.Err() != nil || res.String() != want {
			t.Errorf("%q: %s, %v, %v\n%s", input, res, err, res.Err(), told.String())
		}
	}
}
