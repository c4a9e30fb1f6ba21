//go:build soak

package loadtest

// The replayer is killed -9 at random moments of a long replay. Checks I1, I2 and
// I7 in the ledger, in the outbox and in the audit.

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/replayer"
)

// PERDURE_SOAK_REPLAY is how many letters there are, 100,000 by default.
func TestSoakReplayerKilledTwentyTimes(t *testing.T) {
	n := 100_000
	if v := os.Getenv("PERDURE_SOAK_REPLAY"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	const kills = 20
	b := &bank{}
	b.out.Store(true)
	f := newFleet(t, &b.Ledger, patient)
	server := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	ln := listen(t)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	f.write("catalog.yaml", fmt.Sprintf(`version: 1
queues: {load: {partitions: 4}}
kinds:
  load.step: {queue: load, timeout: 10s, effects: fenced, retry: {%s}, executor: {http: {url: "http://%s/run"}}}
`, patient, ln.Addr()))
	for _, name := range []string{"dispatcher", "relay", "worker"} {
		f.start(name, "1")
	}
	r := f.start("replayer", "1")
	db := connect(t, f.DB)
	for at := 0; at < n; at += 5000 {
		if _, err := db.Exec(t.Context(), `select perdure.enqueue(kind => 'load.step', payload => jsonb_build_object('row', i * 3))
from generate_series($1::int, $2::int) i`, at, min(at+5000, n)-1); err != nil {
			t.Fatal(err)
		}
	}
	count := func(sql string) (x int) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql).Scan(&x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	testkit.Eventually(t, 15*time.Minute, func() (bool, string) {
		x := count(`select count(*) from perdure.dead_letters where state = 'open'`)
		return x == n, fmt.Sprintf("%d of %d tasks are dead letters", x, n)
	})
	if x := len(groupsOf(t, f)); x != 1 {
		t.Fatalf("%d groups, want 1", x)
	}
	b.out.Store(false)

	// The rate makes the run last for as many kills.
	id := strings.TrimSpace(f.run("replay", "start", "--group", groupsOf(t, f)[0].Group, "--canary", "0", "--rate", strconv.Itoa(max(n/40, 100)), "--yes", "--detach", "-o", "json"))
	var started replayer.Replay
	if err := json.Unmarshal([]byte(id), &started); err != nil {
		t.Fatalf("%v: %s", err, id)
	}
	began := time.Now()
	at := make([]int, 0, kills)
	fifths := map[int]bool{}
	for len(at) < kills {
		// A random moment in this kill's share of the letters.
		share := n / (kills + 1)
		after := (len(at)+1)*share + rand.IntN(share)
		testkit.Eventually(t, 3*time.Minute, func() (bool, string) {
			had := count(`select replayed from perdure.replays`)
			return had >= after, fmt.Sprintf("stuck at %d letters after %d kills", had, len(at))
		})
		r.kill()
		had := count(`select replayed from perdure.replays`)
		at, fifths[min(had*5/n, 5)] = append(at, had), true
		// Another one each time: the job is its only once the lease has run out.
		r = f.start("replayer", strconv.Itoa(1+len(at)%2))
	}
	for fifth := range 5 {
		if !fifths[fifth] {
			t.Errorf("no kill in a fifth of the %d letters: %v", n, at)
		}
	}
	if last := at[kills-1]; last >= n {
		t.Errorf("all %d letters had gone before the last kill: %v", n, at)
	}
	testkit.Eventually(t, 15*time.Minute, func() (bool, string) {
		x := f.balance()
		return x.Completed == int64(n), fmt.Sprintf("balance: %+v", x)
	})
	took := time.Since(began)
	if x := f.balance(); x.Accepted != int64(n) || x.Dead != 0 || x.Lost != 0 || x.Waiting != 0 {
		t.Errorf("balance %+v", x)
	}
	if s, want := b.Summary(), (Summary{Tasks: n, Deliveries: n, Applied: n, Bodies: n}); s != want {
		t.Errorf("ledger %+v, want %+v", s, want)
	}
	for what, sql := range map[string]string{
		"tasks that the outbox has a replay of": `select count(distinct task_id) from perdure.outbox where epoch = 1`,
		"rows of replays in the outbox":         `select count(*) from perdure.outbox where task_id is not null`,
		"letters in the audit":                  `select count(*) from perdure.audit, jsonb_object_keys(details -> 'letters') where what = 'letters.replay'`,
		"letters that the replay moved":         `select replayed from perdure.replays where state = 'done'`,
		"letters that are resolved":             `select count(*) from perdure.dead_letters where state = 'resolved' and resolved_by = 'completed'`,
	} {
		if x := count(sql); x != n {
			t.Errorf("%s: %d, want %d", what, x, n)
		}
	}
	if out := f.run("audit", "verify", "-o", "json"); strings.Contains(out, "broken") {
		t.Errorf("the audit is broken: %s", out)
	}
	t.Logf("%d letters, killed %d times after %v letters; all completed, each once, %v after the start", n, kills, at, took.Round(time.Second))
}
