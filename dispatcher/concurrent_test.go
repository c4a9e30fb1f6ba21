package dispatcher_test

// Many clients, few keys, two dispatchers on one database.

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/pg"
)

// answers collects who was told which task.
type answers struct {
	mu  sync.Mutex
	ids map[string]map[string]int // by key, how many posts were told an id
}

func (a *answers) add(key, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids[key] == nil {
		a.ids[key] = map[string]int{}
	}
	a.ids[key][id]++
}

// tasks are the ids that were told, each with its key: each key has one, of its own.
func (a *answers) tasks(t *testing.T) map[string]string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]string{}
	for key, ids := range a.ids {
		if len(ids) != 1 {
			t.Errorf("key %s: its posts were told of %v", key, ids)
		}
		for id := range ids {
			if seen[id] != "" {
				t.Errorf("keys %s and %s are both task %s", seen[id], key, id)
			}
			seen[id] = key
		}
	}
	return seen
}

// persist posts until the answer is not "still committing", as a client must.
func (s *server) persist(ctx context.Context, t *testing.T, body string, header ...string) (reply, bool) {
	for ctx.Err() == nil {
		if r := s.post(t, strings.NewReader(body), header...); r.status != 409 {
			return r, true
		}
	}
	t.Errorf("%.80s %q: the key is still committing", body, header)
	return reply{}, false
}

func TestManyPostsOfFewKeysThroughTwoDispatchers(t *testing.T) {
	one := serve(t, database(t), nil)
	second, err := pg.Pool(t.Context(), one.db.Config().ConnString()) // a dispatcher has its own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Close)
	both := [2]*server{one, serve(t, second, nil)}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	// Another process has begun to use more keys than a dispatcher has
	// connections, and does not commit.
	const held, keys, each = 24, 5, 24
	other, err := pg.Pool(ctx, one.db.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // long rolled back
	if _, err := tx.Exec(ctx, `insert into perdure.unique_keys (scope, key, seq, generation, hash, expires)
		select concat_ws(E'\x1f', 'local', 'any', 'payments'), 'held' || n, 1, 1, '', now() + interval '1 hour' from generate_series(1, $1) n`, held); err != nil {
		t.Fatal(err)
	}

	told := answers{ids: map[string]map[string]int{}}
	post := func(s *server, key, body string, header ...string) {
		r, ok := s.persist(ctx, t, body, header...)
		if !ok {
			return
		}
		var a dispatcher.Accepted
		if err := json.Unmarshal([]byte(r.body), &a); err != nil || r.status != 202 {
			t.Errorf("%s: %+v", key, r)
			return
		}
		told.add(key, a.ID)
	}
	var waiting, rest sync.WaitGroup
	for i := range 2 * held {
		key := fmt.Sprint("held", i/2+1)
		waiting.Go(func() { post(both[i%2], key, `{"kind":"any","payload":1}`, "Idempotency-Key", key) })
	}
	for i := range keys * each {
		s, n := both[i%2], i/2%keys
		idempotent, unique := fmt.Sprint("i", n), fmt.Sprint("u", n)
		rest.Go(func() { post(s, idempotent, `{"kind":"any","payload":1}`, "Idempotency-Key", idempotent) })
		rest.Go(func() { post(s, unique, fmt.Sprintf(`{"kind":"only","payload":%d,"unique_key":%q}`, i, unique)) })
		rest.Go(func() { post(s, fmt.Sprint("none", i), `{"kind":"any","payload":1}`) })
		if i%4 < 2 { // and all keys at once, in any order
			rest.Go(func() {
				var tasks []string
				order := rand.Perm(2 * keys)
				for _, k := range order {
					if k < keys {
						tasks = append(tasks, fmt.Sprintf(`{"kind":"any","payload":1,"idempotency_key":"i%d"}`, k))
					} else {
						tasks = append(tasks, fmt.Sprintf(`{"kind":"only","payload":%d,"unique_key":"u%d"}`, i, k-keys))
					}
				}
				r, ok := s.persist(ctx, t, "["+strings.Join(tasks, ",")+"]")
				var all []dispatcher.Accepted
				if !ok || json.Unmarshal([]byte(r.body), &all) != nil || r.status != 202 || len(all) != len(order) {
					t.Errorf("array: %+v", r)
					return
				}
				for n, k := range order {
					told.add(fmt.Sprint("iu"[k/keys:k/keys+1], k%keys), all[n].ID)
				}
			})
		}
	}
	rest.Wait() // while the keys are held
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()

	seen := told.tasks(t)
	want := held + 2*keys + keys*each
	if n := outbox(t, one.db); n != want || len(seen) != want {
		t.Errorf("%d tasks, and %d ids were told; want %d", n, len(seen), want)
	}
}
