package main

// What whoever works for a task says of it, until somebody at a terminal reads it.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/testkit"
)

// TestWhatWorkSaysOfItselfIsRead: progress while it runs, and the largest result
// that there may be; one byte more is refused, and says why.
func TestWhatWorkSaysOfItselfIsRead(t *testing.T) {
	const most = 64 << 10
	type call1 struct{ id, fence string }
	called := make(chan call1, 2)
	let := make(chan struct{})
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		called <- call1{r.Header.Get("Ce-Id"), r.Header.Get("Perdure-Fence")}
		select {
		case <-let:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer endpoint.Close()
	startNode(t, endpoint.URL)
	cfg, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	post := func(path string, body any) (int, string) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, cfg.APIURL+"/v1/tasks"+path, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(answer)
	}
	if status, answer := post("", map[string]any{"kind": "mail.send", "payload": map[string]string{}}); status != http.StatusAccepted {
		t.Fatalf("%d %s", status, answer)
	}
	var run call1
	select {
	case run = <-called:
	case <-ctx.Done():
		t.Fatal("the endpoint is not called")
	}
	report := func(what string, body map[string]any) (int, string) {
		t.Helper()
		body["run"] = run.fence
		return post("/"+run.id+"/"+what, body)
	}

	for _, done := range []int{1, 2} {
		if status, answer := report("heartbeat", map[string]any{"progress": map[string]int{"pages": done}}); status != 200 {
			t.Fatalf("heartbeat: %d %s", status, answer)
		}
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			out := says(t, "tasks get "+run.id, "running", "heard of")
			return strings.Contains(out, fmt.Sprintf(`{"pages":%d}`, done)), out
		})
	}
	close(let)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		out := says(t, "tasks get "+run.id, `{"pages":2}`)
		return strings.Contains(out, "waiting for external"), out
	})

	result := strings.Repeat("x", most-2) // and its quotes
	status, answer := report("outcome", map[string]any{"outcome": "completed", "result": result + "x"})
	if status != http.StatusUnprocessableEntity && status != http.StatusRequestEntityTooLarge ||
		!strings.Contains(answer, "#/result") || !strings.Contains(answer, fmt.Sprint(most)) || strings.Contains(answer, "xx") {
		t.Errorf("one byte more: %d %.300s", status, answer)
	}
	says(t, "tasks get "+run.id, "waiting for external")
	if status, answer = report("outcome", map[string]any{"outcome": "completed", "result": result}); status != 200 {
		t.Fatalf("%d %.300s", status, answer)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		var v struct{ State, Result string }
		out := says(t, "tasks get "+run.id+" -o json")
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			return false, err.Error()
		}
		return v.State == "completed" && v.Result == result, fmt.Sprintf("%s, with a result of %d bytes, want %d", v.State, len(v.Result), len(result))
	})
}
