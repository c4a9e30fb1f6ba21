package replayer

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

func catalog() *schemas.Catalog {
	return &schemas.Catalog{
		Queues: map[string]*schemas.Queue{"payments": {Name: "payments"}, "refunds": {Name: "refunds"}},
		Kinds: map[string]*schemas.Kind{
			"idem":  {Name: "idem", Queue: "payments", Effects: schemas.EffectsIdempotent},
			"fence": {Name: "fence", Queue: "payments", Effects: schemas.EffectsFenced},
			"once":  {Name: "once", Queue: "payments", Effects: schemas.EffectsOnce},
		},
	}
}

// I7, every row: which claims prove what for which kind.
func TestACompletedTaskIsNeverReplayed(t *testing.T) {
	const go_ = ""
	for _, c := range []struct {
		name  string
		claim claims.Claim
		run   int64
		want  map[string]string // kind → word of the refusal
	}{
		{"done", claims.Claim{State: claims.Done}, 9, all("completed")},
		{"done, never granted", claims.Claim{State: claims.Done}, 0, all("completed")},
		{"cancelled", claims.Claim{State: claims.Cancelled}, 9, all("cancelled")},
		{"running", claims.Claim{State: claims.Running, Epoch: 2}, 9, all("running")},
		{"running, letter made before any grant", claims.Claim{State: claims.Running, Epoch: 2}, 0, all("running")},
		{"waiting for a retry", claims.Claim{State: claims.Waiting, Epoch: 2}, 9, all("running")},
		{"dead at this epoch", claims.Claim{State: claims.Dead, Epoch: 2}, 9, all(go_)},
		{"dead at a later epoch", claims.Claim{State: claims.Dead, Epoch: 3}, 9, all("newer")},
		{"dead at a later epoch, letter before any grant", claims.Claim{State: claims.Dead, Epoch: 3}, 0, all("newer")},
		{"dead at an earlier epoch: a newer claim was lost", claims.Claim{State: claims.Dead, Epoch: 1}, 9, map[string]string{"idem": go_, "fence": go_, "once": "unproven"}},
		{"dead at an earlier epoch, refused by the relay", claims.Claim{State: claims.Dead, Epoch: 1}, 0, all(go_)},
		{"unknown to Redis", claims.Claim{}, 9, map[string]string{"idem": go_, "fence": go_, "once": "unproven"}},
		{"unknown to Redis, made before any grant", claims.Claim{}, 0, all(go_)},
	} {
		for kind, want := range c.want {
			l := &letter{found: true, taskID: "main-1-1", epoch: 2, kind: kind, queue: "payments", state: schemas.LetterOpen, size: 2, run: c.run}
			got := string(judge(l, c.claim, catalog().Kinds[kind]))
			if word, _, _ := strings.Cut(got, ":"); word != want {
				t.Errorf("%s, %s: %q, want %q", c.name, kind, got, want)
			}
		}
	}
}

func all(want string) map[string]string {
	return map[string]string{"idem": want, "fence": want, "once": want}
}

func TestLettersThatCannotMove(t *testing.T) {
	for want, change := range map[string]func(*letter){
		"":              func(*letter) {},
		"not-found":     func(l *letter) { l.found = false },
		"resolved":      func(l *letter) { l.state = schemas.LetterResolved },
		"replaying":     func(l *letter) { l.state = schemas.LetterReplaying },
		"held":          func(l *letter) { l.state = schemas.LetterHeld },
		"discarded":     func(l *letter) { l.state = schemas.LetterDiscarded },
		"undecodable":   func(l *letter) { l.reason = schemas.ReasonUndecodable },
		"cut":           func(l *letter) { l.cut = true },
		"unknown_kind":  func(l *letter) { l.kind = "x" },
		"unknown_queue": func(l *letter) { l.queue = "x" },
		"moved":         func(l *letter) { l.queue = "refunds" },
		"expired":       func(l *letter) { l.expired = true },
		"unknown":       func(l *letter) { l.reason = schemas.ReasonUnknown }, // of a kind without a hook
	} {
		l := &letter{found: true, taskID: "main-1-1", kind: "idem", queue: "payments", state: schemas.LetterOpen, reason: schemas.ReasonPermanent, size: 2}
		change(l)
		if word, _, _ := strings.Cut(string(before(l, catalog())), ":"); word != want {
			t.Errorf("%q, want %q", word, want)
		}
	}
	l := &letter{found: true, taskID: "main-1-1", kind: "idem", queue: "payments", state: schemas.LetterOpen, reason: schemas.ReasonUnknown, size: 2, named: true}
	if why := before(l, catalog()); why != "" {
		t.Errorf("a letter in doubt that a person named: %s", why)
	}
	l.taskID = ""
	if why := before(l, catalog()); !strings.HasPrefix(string(why), "undecodable:") {
		t.Errorf("no task id: %q", why)
	}
}

func TestTheReplayedRowIsTheOriginal(t *testing.T) {
	task := &schemas.Task{ID: "main-1-1", Kind: "idem", Key: "acct", Epoch: 2, Attempt: 7, Run: 5, ContentType: "text/plain",
		Payload: []byte("x"), Time: time.Unix(1e9, 0), TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Headers: map[string]string{"x-user": "u", "traceparent": "the hop's"}}
	hs := schemas.AppendRecordHeaders[kgo.RecordHeader](nil, task)
	l := &letter{taskID: "main-1-1", epoch: 2, kind: "idem", key: []byte("acct"), size: 1}
	row, why := rebuildFrom(l, hs)
	if why != "" {
		t.Fatal(why)
	}
	var user map[string]string
	if err := json.Unmarshal(row.headers, &user); err != nil {
		t.Fatal(err)
	}
	if *row.key != "acct" || row.contentType != "text/plain" || len(user) != 2 || user["x-user"] != "u" || user["traceparent"] != task.TraceParent {
		t.Errorf("%+v %v", row, user)
	}
	for name, change := range map[string]func(*letter){
		"another task": func(l *letter) { l.taskID = "main-1-2" },
		"epoch":        func(l *letter) { l.epoch = 1 },
		"kind":         func(l *letter) { l.kind = "once" },
		"key":          func(l *letter) { l.key = []byte("other") },
		"size":         func(l *letter) { l.size = 2 << 20 },
	} {
		c := *l
		change(&c)
		if _, why := rebuildFrom(&c, hs); why == "" {
			t.Errorf("%s: a letter that contradicts its headers may go", name)
		}
	}
	c := *l
	c.headers = []byte(`{`)
	if _, why := rebuild(&c); why == "" {
		t.Error("unreadable headers may go")
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
