package worker_test

// What an endpoint can rely on, as docs say it, checked as an endpoint would: with
// nothing of ours, by the Standard Webhooks specification and the secret alone.

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// verified says what is wrong with a request; "" = it may be believed.
func verified(r *http.Request, body []byte) string {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(testSecret, "whsec_"))
	if err != nil {
		return err.Error()
	}
	id, stamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	sent, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return "webhook-timestamp " + stamp
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	version, text, _ := strings.Cut(r.Header.Get("webhook-signature"), ",")
	got, err := base64.StdEncoding.DecodeString(text)
	if version != "v1" || err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return "webhook-signature " + r.Header.Get("webhook-signature")
	}
	if id == "" || r.Header.Get("idempotency-key") != id || r.Header.Get("ce-id") != id {
		return "ids " + id
	}
	if fence := r.Header.Get("perdure-fence"); !regexp.MustCompile(`^\d{19}$`).MatchString(fence) {
		return "perdure-fence " + fence
	}
	return ""
}

func TestAnEndpointCanVerifyEveryRequest(t *testing.T) {
	var mu sync.Mutex
	posts, wrong, fences := map[string]int{}, []string{}, map[string]string{}
	url := endpoint(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if why := verified(r, body); why != "" {
			wrong = append(wrong, why)
			rw.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		id, fence := r.Header.Get("webhook-id"), r.Header.Get("perdure-fence")
		if posts[id]++; fence <= fences[id] || r.Header.Get("perdure-attempt") != strconv.Itoa(posts[id]) {
			wrong = append(wrong, fmt.Sprintf("fence %s after %s, attempt %s of post %d", fence, fences[id], r.Header.Get("perdure-attempt"), posts[id]))
		}
		fences[id] = fence
		if posts[id] == 1 {
			rw.WriteHeader(http.StatusServiceUnavailable) // each is sent, and signed, once more
		}
	})
	w := newWorld(t, strings.Replace(fmt.Sprintf(httpCatalog, url), `/run"`, `/run", secret_env: JOBS_SECRET`, 1))
	t.Setenv("JOBS_SECRET", testSecret)
	w.start("a", nil, nil)
	ids := w.sendJobs(50)
	for _, payload := range []string{`"köln \u0000 ⚡"`, strings.Repeat(" ", 4096) + `{}`} {
		task := w.task("job.run", nil)
		task.Payload = []byte(payload)
		w.send(task)
		ids = append(ids, task.ID)
	}
	w.committedAll("jobs")
	mu.Lock()
	defer mu.Unlock()
	if len(wrong) > 0 {
		t.Errorf("%d requests are not to be believed, the first: %s", len(wrong), wrong[0])
	}
	for _, id := range ids {
		if posts[id] != 2 {
			t.Errorf("%s was posted %d times", id, posts[id])
		}
	}
	if letters := w.letters("jobs"); len(letters) > 0 {
		t.Errorf("%d letters, the first %+v", len(letters), letters[0])
	}
}
