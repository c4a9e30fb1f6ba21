package dispatcher_test

// unique_key: the same cases through SQL, Go, HTTP and `perdure enqueue`.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/dispatcher/enqueuefile"
	"github.com/perdure/perdure/internal/api"
)

const uniqueToken = "aaaaaaaaaaaaaaaa"

// serveUnique is a dispatcher whose token has the name of the database's user,
// so that all ways in are one producer.
func serveUnique(t *testing.T) (*server, *client.Client) {
	t.Helper()
	db := database(t)
	var user string
	if err := db.QueryRow(t.Context(), `select session_user`).Scan(&user); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tokens")
	text := fmt.Sprintf("tokens:\n- {name: %q, token: %s, verbs: [enqueue]}\n", user, uniqueToken)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, db, tokens)
	c, err := client.New(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// uniqueTask is a post in the form of a line.
type uniqueTask struct {
	Kind           string `json:"kind"`
	Payload        int    `json:"payload"`
	UniqueKey      string `json:"unique_key,omitempty"`
	IdempotencyKey string `json:"idempotency_key,omitempty"`
}

func (u uniqueTask) task() client.Task {
	return client.Task{Kind: u.Kind, Payload: u.Payload, UniqueKey: u.UniqueKey, IdempotencyKey: u.IdempotencyKey}
}

func (u uniqueTask) line(t testing.TB) string {
	b, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// answered is what a way in said. seq is 0 and mark "" where it cannot say.
type answered struct {
	seq     int64
	mark    string // new, duplicate, replayed
	refused bool
}

func marked(seq int64, duplicate, replayed bool) answered {
	switch {
	case duplicate:
		return answered{seq: seq, mark: "duplicate"}
	case replayed:
		return answered{seq: seq, mark: "replayed"}
	}
	return answered{seq: seq, mark: "new"}
}

type wayIn struct {
	name string
	put  func(t *testing.T, s *server, c *client.Client, u uniqueTask) answered
}

// byRef answers a Go call.
func byRef(t *testing.T, r client.Ref, err error) answered {
	t.Helper()
	var bad *client.InvalidError
	if errors.As(err, &bad) || errors.Is(err, client.ErrKeyReuse) {
		return answered{refused: true}
	}
	if err != nil {
		t.Fatal(err)
	}
	return marked(r.Seq, r.Duplicate, r.Replayed)
}

var waysIn = []wayIn{
	{"SQL", func(t *testing.T, s *server, _ *client.Client, u uniqueTask) answered {
		var a answered
		err := s.db.QueryRow(t.Context(), `select perdure.enqueue(kind => $1, payload => to_jsonb($2::int), unique_key => nullif($3, ''), idempotency_key => nullif($4, ''))`,
			u.Kind, u.Payload, u.UniqueKey, u.IdempotencyKey).Scan(&a.seq)
		var state interface{ SQLState() string }
		if errors.As(err, &state) && strings.HasPrefix(state.SQLState(), "PD4") {
			return answered{refused: true}
		}
		if err != nil {
			t.Fatal(err)
		}
		return a
	}},
	{"Enqueue", func(t *testing.T, _ *server, c *client.Client, u uniqueTask) answered {
		r, err := c.Enqueue(t.Context(), u.task())
		return byRef(t, r, err)
	}},
	{"EnqueueSQLTx", func(t *testing.T, s *server, c *client.Client, u uniqueTask) answered {
		db := stdlib.OpenDBFromPool(s.db)
		defer db.Close()
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
		r, err := c.EnqueueSQLTx(t.Context(), tx, u.task())
		if err == nil {
			err = tx.Commit()
		}
		return byRef(t, r, err)
	}},
	{"EnqueueEach", func(t *testing.T, _ *server, c *client.Client, u uniqueTask) answered {
		out, err := c.EnqueueEach(t.Context(), []client.Task{{Kind: "any", Payload: 0}, u.task()})
		if err != nil {
			t.Fatal(err)
		}
		return byRef(t, out[1].Ref, out[1].Err)
	}},
	{"HTTP", func(t *testing.T, s *server, _ *client.Client, u uniqueTask) answered {
		r := s.post(t, strings.NewReader(u.line(t)), "Authorization", "Bearer "+uniqueToken)
		var a struct {
			Seq       int64
			Duplicate bool
		}
		if r.status == 422 {
			return answered{refused: true}
		}
		if err := json.Unmarshal([]byte(r.body), &a); err != nil || r.status != 202 {
			t.Fatalf("%+v", r)
		}
		return marked(a.Seq, a.Duplicate, r.header.Get("Idempotency-Replayed") == "true")
	}},
	{"HTTP array", func(t *testing.T, s *server, _ *client.Client, u uniqueTask) answered {
		r := s.post(t, strings.NewReader("["+u.line(t)+"]"), "Authorization", "Bearer "+uniqueToken)
		var a []struct {
			Seq                 int64
			Duplicate, Replayed bool
		}
		if r.status == 422 {
			return answered{refused: true}
		}
		if err := json.Unmarshal([]byte(r.body), &a); err != nil || r.status != 202 || len(a) != 1 {
			t.Fatalf("%+v", r)
		}
		return marked(a[0].Seq, a[0].Duplicate, a[0].Replayed)
	}},
	{"CLI", func(t *testing.T, s *server, _ *client.Client, u uniqueTask) answered {
		stats, err := enqueuefile.Run(t.Context(), enqueuefile.Options{Reader: strings.NewReader(u.line(t)), Name: "-", URL: s.URL, Token: uniqueToken})
		if err != nil || stats.Lines != 1 {
			t.Fatalf("%+v, %v", stats, err)
		}
		if stats.Rejected == 1 {
			return answered{refused: true}
		}
		return marked(0, stats.Duplicate == 1, stats.Replayed == 1)
	}},
}

// is says whether a way in answered want, as far as it can say.
func (a answered) is(want answered) bool {
	return a.refused == want.refused && (a.seq == want.seq || a.seq == 0) && (a.mark == want.mark || a.mark == "")
}

// newest is the seq of the newest task of a kind, and how many there are.
func newest(t *testing.T, db *pgxpool.Pool, kind string) (seq int64, n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `select coalesce(max(id), 0), count(*) from perdure.outbox where kind = $1`, kind).Scan(&seq, &n); err != nil {
		t.Fatal(err)
	}
	return seq, n
}

func TestUniqueKeyIsTheSameFromEveryWayIn(t *testing.T) {
	s, c := serveUnique(t)
	for _, first := range waysIn {
		t.Run(first.name, func(t *testing.T) {
			put := func(w wayIn, want answered, u uniqueTask) {
				t.Helper()
				if got := w.put(t, s, c, u); !got.is(want) {
					t.Errorf("%s, %+v: %+v, want %+v", w.name, u, got, want)
				}
			}
			key := first.name
			_, before := newest(t, s.db, "only")
			a := first.put(t, s, c, uniqueTask{Kind: "only", Payload: 1, UniqueKey: key})
			holder, n := newest(t, s.db, "only")
			if !a.is(answered{seq: holder, mark: "new"}) || n != before+1 {
				t.Fatalf("%+v, newest is %d, %d tasks more", a, holder, n-before)
			}
			for i, w := range waysIn { // whatever the payload; no idempotency key
				put(w, answered{seq: holder, mark: "duplicate"}, uniqueTask{Kind: "only", Payload: i, UniqueKey: key})
			}
			// An idempotency key keeps the answer that it got first, as the other
			// sort of key with the same text does not.
			both := uniqueTask{Kind: "only", Payload: 1, UniqueKey: key, IdempotencyKey: key}
			put(first, answered{seq: holder, mark: "duplicate"}, both)
			for _, w := range waysIn {
				put(w, answered{seq: holder, mark: "replayed"}, both)
				put(w, answered{refused: true}, uniqueTask{Kind: "only", Payload: 2, UniqueKey: key, IdempotencyKey: key})
				put(w, answered{refused: true}, uniqueTask{Kind: "any", Payload: 1, UniqueKey: key})
			}
			if _, n := newest(t, s.db, "only"); n != before+1 {
				t.Fatalf("%d tasks more, want 1", n-before)
			}
			// The period is over: the key is free, and the next one holds it.
			tag, err := s.db.Exec(t.Context(), `update perdure.unique_keys set expires = clock_timestamp() - interval '1s' where key = $1 and scope like '%' || chr(31) || 'unique'`, key)
			if err != nil || tag.RowsAffected() != 1 {
				t.Fatal(tag, err)
			}
			put(first, answered{seq: holder, mark: "replayed"}, both)
			a = first.put(t, s, c, uniqueTask{Kind: "only", Payload: 3, UniqueKey: key})
			next, n := newest(t, s.db, "only")
			if !a.is(answered{seq: next, mark: "new"}) || next == holder || n != before+2 {
				t.Fatalf("%+v, newest is %d, %d tasks more", a, next, n-before)
			}
			for _, w := range waysIn {
				put(w, answered{seq: next, mark: "duplicate"}, uniqueTask{Kind: "only", Payload: 3, UniqueKey: key})
			}
		})
	}
	var held int // for the kind's hour from the enqueue, by the database's clock
	if err := s.db.QueryRow(t.Context(), `select count(*) from perdure.unique_keys k join perdure.outbox o on o.id = k.seq
		where k.scope like '%' || chr(31) || 'unique' and k.expires between o.created_at + interval '59m' and o.created_at + interval '61m'`).Scan(&held); err != nil || held != len(waysIn) {
		t.Errorf("%d keys are held for an hour, want %d: %v", held, len(waysIn), err)
	}
}

func TestUniqueKeyOfARolledBackTaskIsFree(t *testing.T) {
	s, c := serveUnique(t)
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to keep
	task := uniqueTask{Kind: "only", Payload: 1, UniqueKey: "k"}
	if _, err := c.EnqueueTx(t.Context(), tx, task.task()); err != nil {
		t.Fatal(err)
	}
	// While it is open, posts of that key are told to come again, others are taken.
	held := make(chan reply, 1)
	go func() { held <- s.post(t, strings.NewReader(task.line(t)), "Authorization", "Bearer "+uniqueToken) }()
	for i := range 20 {
		for _, body := range []string{`{"kind":"any","payload":1}`, uniqueTask{Kind: "only", UniqueKey: strconv.Itoa(i)}.line(t)} {
			if r := s.post(t, strings.NewReader(body), "Authorization", "Bearer "+uniqueToken); r.status != 202 {
				t.Errorf("%+v", r)
			}
		}
	}
	r := <-held
	if p := r.problem(t); r.status != 409 || p.Name() != "still-committing" || r.header.Get("Retry-After") == "" {
		t.Fatalf("%+v", r)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := waysIn[4].put(t, s, c, task); a.mark != "new" {
		t.Fatalf("%+v", a)
	}
}

// Batches of the same new keys in any order, all at once: no deadlock, which
// EnqueueManyTx would not try again.
func TestUniqueKeysInAnyOrderDoNotDeadlock(t *testing.T) {
	s, c := serveUnique(t)
	const rounds, batches, keys = 10, 4, 30
	for round := range rounds {
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range batches {
			tx, err := s.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // after Commit it does nothing
				var tasks []client.Task
				for _, k := range rand.Perm(keys) {
					tasks = append(tasks, client.Task{Kind: "only", Payload: k, UniqueKey: fmt.Sprint(round, "/", k)})
				}
				<-begin
				_, err := c.EnqueueManyTx(t.Context(), tx, tasks)
				if err == nil {
					err = tx.Commit(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		wg.Wait()
	}
	if _, n := newest(t, s.db, "only"); n != rounds*keys {
		t.Errorf("%d tasks, want %d", n, rounds*keys)
	}
}

// 1,000 callers of 20 keys, each with two of them in any order: one task a key.
func TestUniqueKeysUnderManyCallers(t *testing.T) {
	s, c := serveUnique(t)
	const callers, keys = 1000, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	holders := map[string]int64{}
	fresh := 0
	got := func(key string, r client.Ref) {
		mu.Lock()
		defer mu.Unlock()
		if !r.Duplicate {
			fresh++
		}
		if h, ok := holders[key]; ok && h != r.Seq {
			t.Errorf("key %s: tasks %d and %d", key, h, r.Seq)
		}
		holders[key] = r.Seq
	}
	for i := range callers {
		wg.Go(func() {
			two := []client.Task{}
			for _, k := range rand.Perm(keys)[:2] {
				two = append(two, client.Task{Kind: "only", Payload: i, UniqueKey: strconv.Itoa(k)})
			}
			if i%2 == 0 {
				r, err := c.Enqueue(t.Context(), two[0])
				if err != nil {
					t.Error(err)
					return
				}
				got(two[0].UniqueKey, r)
				return
			}
			tx, err := s.db.Begin(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // after Commit it does nothing
			refs, err := c.EnqueueManyTx(t.Context(), tx, two)
			if err == nil {
				err = tx.Commit(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			for n, r := range refs {
				got(two[n].UniqueKey, r)
			}
		})
	}
	wg.Wait()
	if _, n := newest(t, s.db, "only"); n != keys || fresh != keys || len(holders) != keys {
		t.Fatalf("%d tasks, %d answers that say new, %d keys; want %d of each", n, fresh, len(holders), keys)
	}
}
