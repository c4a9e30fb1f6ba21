package apiclient_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/apiclient"
)

// TestAStreamThatBreaksIsFollowed: cut off, ended early, not ready, then the end.
func TestAStreamThatBreaksIsFollowed(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		event := func(name string) {
			fmt.Fprintf(w, "event: %s\ndata: %d\n\n", name, asked)
			w.(http.Flusher).Flush()
		}
		switch asked++; asked {
		case 1:
			event("replay")
			panic(http.ErrAbortHandler)
		case 2:
			event("replay")
		case 3:
			http.Error(w, "starting", http.StatusServiceUnavailable)
		default:
			event("end")
		}
	}))
	defer srv.Close()
	var got, lost []string
	err := client(t, srv.URL).Follow(t.Context(), "/v1/replays/r/watch", func(err error) { lost = append(lost, err.Error()) },
		func(event string, data []byte) error {
			got = append(got, event+string(data))
			return nil
		})
	if err != nil || fmt.Sprint(got) != "[replay1 replay2 end4]" {
		t.Errorf("%v, events %v", err, got)
	}
	if len(lost) != 2 || !strings.Contains(lost[0], "the stream broke") || !strings.Contains(lost[1], "before its end") {
		t.Errorf("told of %q", lost)
	}
}

// TestAQuietStreamIsFollowedToo: what says nothing for longer than an API may be away, as a
// replay that is paused, is asked again all the same; what stays away is given up.
func TestAQuietStreamIsFollowedToo(t *testing.T) {
	const patience = 1500 * time.Millisecond // more than Follow waits before it asks again
	old := apiclient.WaitsFor(patience)
	defer apiclient.WaitsFor(old)
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked > 2 {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "event: replay\ndata: 1\n\n")
		w.(http.Flusher).Flush()
		time.Sleep(patience + patience/3) // quiet
	}))
	defer srv.Close()
	events, lost := 0, 0
	err := client(t, srv.URL).Follow(t.Context(), "/v1/replays/r/watch", func(error) { lost++ }, func(string, []byte) error {
		events++
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "503") || events != 2 || lost != 2 {
		t.Errorf("%v after %d events and %d breaks, want 503 after 2 and 2", err, events, lost)
	}
}

// TestWhatWillNotComeIsNotWaitedFor: an API that was never there, a refusal, a caller that has enough.
func TestWhatWillNotComeIsNotWaitedFor(t *testing.T) {
	enough := errors.New("enough")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/gone" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		fmt.Fprint(w, "event: replay\ndata: 1\n\n")
	}))
	c := client(t, srv.URL)
	follow := func(path string) error {
		return c.Follow(t.Context(), path, func(err error) { t.Errorf("%s: asked again after %v", path, err) }, func(string, []byte) error { return enough })
	}
	if err := follow("/v1/gone"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a refusal: %v", err)
	}
	if err := follow("/v1/there"); !errors.Is(err, enough) {
		t.Errorf("enough: %v", err)
	}
	srv.Close()
	if err := follow("/v1/there"); err == nil || !strings.Contains(err.Error(), "no answer from the API") {
		t.Errorf("nobody there: %v", err)
	}
}
