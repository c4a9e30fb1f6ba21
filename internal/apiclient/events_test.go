package apiclient_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
	if len(lost) != 2 || !strings.Contains(lost[0], "the stream broke") || !strings.Contains(lost[1], "503") {
		t.Errorf("told of %q", lost)
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
