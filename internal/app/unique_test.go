package app_test

// unique: {until: completed} through all roles, on real servers: one task a key
// while it runs, waits, is dead, is replayed; and a new one after it has ended.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/testkit"
)

// house runs tasks as their payload says: "hold" until let go, "die" unless mended.
type house struct {
	mu     sync.Mutex
	ran    map[string]int // by payload's key
	let    chan struct{}
	mended bool
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var task struct{ Key, Mode string }
	if err := json.NewDecoder(r.Body).Decode(&task); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.ran[task.Key]++
	let, mended := h.let, h.mended
	h.mu.Unlock()
	switch {
	case task.Mode == "hold":
		select {
		case <-let:
		case <-r.Context().Done():
		}
	case task.Mode == "die" && !mended:
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
}

func (h *house) count(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ran[key]
}

type uniqueRig struct {
	*testing.T
	*house
	api *apiclient.Client
}

func newUniqueRig(t *testing.T) *uniqueRig {
	t.Helper()
	h := &house{ran: map[string]int{}, let: make(chan struct{})}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cfg := realConfig(t)
	kind := fmt.Sprintf("{queue: hello, timeout: 2m, unique: {until: completed}, executor: {http: {url: %q}}}", srv.URL)
	text := "version: 1\nqueues:\n  hello: {partitions: 2}\nkinds:\n  keep: " + kind + "\n  drop: " + kind +
		"\npolicies:\n  drop: {when: {kind: drop}, wait_for: {quiet: 1s}, action: discard}\n"
	if err := os.WriteFile(cfg.Catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	runUp(t, cfg, io.Discard)
	return &uniqueRig{T: t, house: h, api: client(t, cfg.DataDir)}
}

// post enqueues a task with a key, and says which task has it.
func (r *uniqueRig) post(kind, key, mode string, more ...string) dispatcher.Accepted {
	r.Helper()
	body := map[string]any{"kind": kind, "unique_key": key, "payload": map[string]string{"key": key, "mode": mode}}
	for i := 0; i < len(more); i += 2 {
		body[more[i]] = more[i+1]
	}
	var a dispatcher.Accepted
	if err := r.api.Post(r.Context(), "/v1/tasks", body, &a); err != nil {
		r.Error(err)
	}
	return a
}

// until waits until a task is in a state, and holds its key or not.
func (r *uniqueRig) until(id, state, key string) {
	r.Helper()
	testkit.Eventually(r, 60*time.Second, func() (bool, string) {
		var v dispatcher.TaskView
		if err := r.api.Get(r.Context(), "/v1/tasks/"+id, nil, &v); err != nil {
			return false, err.Error()
		}
		return string(v.State) == state && v.UniqueKey == key, fmt.Sprintf("task %s is %s and holds %q; want %s, %q", id, v.State, v.UniqueKey, state, key)
	})
}

// held says that a further task with the key is told of the holder.
func (r *uniqueRig) held(kind, key, holder string) {
	r.Helper()
	if a := r.post(kind, key, ""); !a.Duplicate || a.ID != holder {
		r.Errorf("key %s: %+v, want a duplicate of %s", key, a, holder)
	}
}

// free says that a further task with the key is a new one, and runs.
func (r *uniqueRig) free(kind, key, before string) {
	r.Helper()
	a := r.post(kind, key, "")
	if a.Duplicate || a.ID == before {
		r.Errorf("key %s: %+v, want another task than %s", key, a, before)
	}
	r.until(a.ID, "completed", "")
}

func TestAKeyIsGivenBackWhenItsTaskHasEndedForGood(t *testing.T) {
	r := newUniqueRig(t)

	// 50 at once while it runs: one task.
	first := r.post("keep", "runs", "hold")
	r.until(first.ID, "running", "runs")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { r.held("keep", "runs", first.ID) })
	}
	wg.Wait()
	close(r.let)
	r.until(first.ID, "completed", "")
	if n := r.count("runs"); n != 1 {
		t.Errorf("%d tasks ran with one key", n)
	}
	r.free("keep", "runs", first.ID)

	// Dead: held. Replayed and completed: free.
	dead := r.post("keep", "dies", "die")
	r.until(dead.ID, "dead", "dies")
	var letters struct {
		Letters []struct{ Letter string } `json:"letters"`
	}
	testkit.Eventually(t, 60*time.Second, func() (bool, string) {
		err := r.api.Get(t.Context(), "/v1/dead-letters", nil, &letters)
		return err == nil && len(letters.Letters) == 1, fmt.Sprint(letters, err)
	})
	r.held("keep", "dies", dead.ID)
	r.mu.Lock()
	r.mended = true
	r.mu.Unlock()
	if err := r.api.Post(t.Context(), "/v1/replays", map[string]any{"selector": map[string]any{"ids": []string{dead.ID}}, "start": true, "why": "mended"}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	r.until(dead.ID, "completed", "")
	r.free("keep", "dies", dead.ID)

	// Dead and discarded by a policy: free.
	r.mu.Lock()
	r.mended = false
	r.mu.Unlock()
	dropped := r.post("drop", "dropped", "die")
	r.until(dropped.ID, "discarded", "")
	r.free("drop", "dropped", dropped.ID)

	// Cancelled before it runs: free with the answer.
	later := r.post("keep", "later", "", "run_at", time.Now().Add(time.Hour).Format(time.RFC3339))
	r.held("keep", "later", later.ID)
	if err := r.api.Post(t.Context(), "/v1/tasks/"+later.ID+"/cancel", nil, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	r.free("keep", "later", later.ID)

	// Cancelled while it runs: free when its worker has ended it.
	r.mu.Lock()
	r.let = make(chan struct{})
	r.mu.Unlock()
	running := r.post("keep", "cancelled", "hold")
	r.until(running.ID, "running", "cancelled")
	if err := r.api.Post(t.Context(), "/v1/tasks/"+running.ID+"/cancel", nil, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	r.until(running.ID, "cancelled", "")
	r.free("keep", "cancelled", running.ID)
}
