package app_test

// on_dead: block through all roles, on real servers: a key's later tasks wait until
// the letter of a dead one is replayed or discarded, and go on in their order.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/testkit"
)

// till is a ledger that keeps the order in which tasks of a key succeeded.
type till struct {
	mu   sync.Mutex
	bad  map[int]bool // numbers that fail for now
	done map[string][]int
}

func (l *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var task struct {
		Key string
		N   int
	}
	if err := json.NewDecoder(r.Body).Decode(&task); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad[task.N] {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	l.done[task.Key] = append(l.done[task.Key], task.N)
}

func (l *till) of(key string) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.done[key])
}

func (l *till) mend(n ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range n {
		delete(l.bad, n)
	}
}

type blockRig struct {
	*testing.T
	*till
	api *apiclient.Client
	ids map[int]string
}

func newBlockRig(t *testing.T) *blockRig {
	t.Helper()
	l := &till{bad: map[int]bool{}, done: map[string][]int{}}
	srv := httptest.NewServer(l)
	t.Cleanup(srv.Close)
	cfg := realConfig(t)
	text := fmt.Sprintf("version: 1\nqueues:\n  hello: {partitions: 2}\nkinds:\n  step: {queue: hello, timeout: 10s, order: key, on_dead: block, executor: {http: {url: %q}}}\n", srv.URL)
	if err := os.WriteFile(cfg.Catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runUp(t, cfg, io.Discard)
	return &blockRig{T: t, till: l, api: client(t, cfg.DataDir), ids: map[int]string{}}
}

func (r *blockRig) post(key string, numbers ...int) {
	r.Helper()
	for _, n := range numbers {
		var a dispatcher.Accepted
		if err := r.api.Post(r.Context(), "/v1/tasks", map[string]any{"kind": "step", "key": key, "payload": map[string]any{"key": key, "n": n}}, &a); err != nil {
			r.Error(err)
			return
		}
		r.ids[n] = a.ID
	}
}

// doneIs waits until a key's ledger is exactly want.
func (r *blockRig) doneIs(key string, want ...int) {
	r.Helper()
	testkit.Eventually(r, 60*time.Second, func() (bool, string) {
		got := r.of(key)
		return slices.Equal(got, want), fmt.Sprintf("key %s: %v succeeded, want %v", key, got, want)
	})
}

func (r *blockRig) letter(n int) (e dlq.LetterView, err error) {
	err = r.api.Get(r.Context(), "/v1/dead-letters/"+r.ids[n], nil, &e)
	return e, err
}

// letters waits until tasks have letters of a state and reason.
func (r *blockRig) letters(state, reason string, numbers ...int) {
	r.Helper()
	for _, n := range numbers {
		testkit.Eventually(r, 60*time.Second, func() (bool, string) {
			e, err := r.letter(n)
			return err == nil && e.State == state && e.Reason == reason, fmt.Sprintf("task %d: %s %s %v; want %s %s", n, e.State, e.Reason, err, state, reason)
		})
	}
}

func (r *blockRig) replay(n int) {
	r.Helper()
	if err := r.api.Post(r.Context(), "/v1/replays", map[string]any{"selector": map[string]any{"ids": []string{r.ids[n]}}, "start": true, "why": "mended"}, &struct{}{}); err != nil {
		r.Fatal(err)
	}
}

func TestABlockedKeyGoesOnInItsOrderWhenItsLetterIsSettled(t *testing.T) {
	r := newBlockRig(t)
	r.bad[2], r.bad[4] = true, true
	r.post("a", 1, 2, 3, 4)
	r.post("b", 11, 12)
	r.doneIs("b", 11, 12) // another key is not held up
	r.letters("open", "permanent", 2)
	r.letters("held", "blocked", 3, 4)
	r.post("a", 5)
	r.letters("held", "blocked", 5)
	r.doneIs("a", 1)

	// Whoever asks is told what it waits for; by itself it is not replayed.
	var why dispatcher.Why
	if err := r.api.Get(t.Context(), "/v1/tasks/"+r.ids[4]+"/why", nil, &why); err != nil {
		t.Fatal(err)
	}
	by := r.ids[2] + "@0"
	if why.Cause != dispatcher.CauseBlocked || why.Evidence["blocked_by"] != by || why.Command != "perdure replay start --id "+by+" --yes" {
		t.Errorf("why: %+v", why)
	}
	if e, err := r.letter(2); err != nil || !e.Block || e.Waiting != 3 {
		t.Errorf("letter %s: block %v, %d wait for it, %v", by, e.Block, e.Waiting, err)
	}
	if e, err := r.letter(4); err != nil || e.BlockedBy != by || e.Waiting != 0 {
		t.Errorf("letter of 4: blocked by %q, %d wait for it, %v", e.BlockedBy, e.Waiting, err)
	}
	r.replay(3)
	for _, decision := range []string{"hold", "release"} {
		var out struct{ Letters int }
		if err := r.api.Post(t.Context(), "/v1/dead-letters/"+decision, map[string]any{"selector": map[string]any{"ids": []string{r.ids[3]}}, "why": "a test"}, &out); err != nil || out.Letters != 0 {
			t.Errorf("%s of a waiting task: %d letters, %v", decision, out.Letters, err)
		}
	}

	// Replayed: itself first, then the others up to the next that dies.
	r.mend(2)
	r.replay(2)
	r.doneIs("a", 1, 2, 3)
	r.letters("open", "permanent", 4)
	r.letters("held", "blocked", 5)
	r.post("a", 6, 7)
	r.letters("held", "blocked", 6, 7)

	// Discarded: the others go on without it.
	if err := r.api.Post(r.Context(), "/v1/dead-letters/discard", map[string]any{"selector": map[string]any{"ids": []string{r.ids[4]}}, "why": "not wanted"}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	r.doneIs("a", 1, 2, 3, 5, 6, 7)
	r.post("a", 8)
	r.doneIs("a", 1, 2, 3, 5, 6, 7, 8)
}

// Tasks of two keys keep coming while letters are replayed as soon as they are
// there: whatever a lift meets on its way, the order of a key stays.
func TestTasksThatComeDuringALiftKeepTheirOrder(t *testing.T) {
	r := newBlockRig(t)
	const n = 40
	var want [2][]int
	for i := range n {
		want[i%2] = append(want[i%2], i)
	}
	for _, bad := range []int{2, 3, 14, 16} {
		r.bad[bad] = true
	}
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		for i := range n {
			r.post([]string{"a", "b"}[i%2], i)
			time.Sleep(20 * time.Millisecond) // tasks come one after the other, before, during and after the lifts
		}
	}()
	deadline := time.Now().Add(90 * time.Second)
	replayed := map[string]bool{}
	for !slices.Equal(r.of("a"), want[0]) || !slices.Equal(r.of("b"), want[1]) {
		if time.Now().After(deadline) {
			t.Fatalf("a %v\nb %v", r.of("a"), r.of("b"))
		}
		var open struct {
			Letters []dlq.Entry `json:"letters"`
		}
		if err := r.api.Get(t.Context(), "/v1/dead-letters", url.Values{"state": {"open"}}, &open); err != nil {
			t.Fatal(err)
		}
		for _, l := range open.Letters {
			if l.Reason != "permanent" {
				t.Fatalf("letter %s is open, reason %s", l.Letter, l.Reason)
			}
			if replayed[l.Letter] {
				continue
			}
			replayed[l.Letter] = true
			r.mend(2, 3, 14, 16)
			if err := r.api.Post(t.Context(), "/v1/replays", map[string]any{"selector": map[string]any{"ids": []string{l.Letter}}, "start": true, "why": "mended"}, &struct{}{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	<-posted
	if len(replayed) < 2 {
		t.Errorf("only %d letters were replayed: no lift was raced", len(replayed))
	}
}
