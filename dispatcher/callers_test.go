package dispatcher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/pg"
)

// Under -race a process may have some 8,000 goroutines, of which an HTTP call takes five.
func TestManyCallersOfAHundredKeys(t *testing.T) { callersOfFewKeys(t, 1_000, 100) }

// callersOfFewKeys begins all calls at once: a half over HTTP, a quarter from Go, a
// quarter by SQL; every tenth of the first two asks for several keys in any order.
// The keys of HTTP are other ones than those of a database user, see PROTOCOL.md.
func callersOfFewKeys(t *testing.T, callers, keys int) {
	s := serve(t, database(t), nil)
	s.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = callers
	direct, err := pg.Pool(t.Context(), s.db.Config().ConnString()+"&pool_max_conns=60") // a producer has its own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	c, err := client.New(t.Context(), direct)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	told := answers{ids: map[string]map[string]int{}}
	key := func(n int) string { return fmt.Sprint("key-", n%keys) }
	overHTTP := func(list []string) {
		tasks := make([]string, len(list))
		for i, k := range list {
			tasks[i] = fmt.Sprintf(`{"kind":"any","payload":1,"idempotency_key":%q}`, k)
		}
		body := tasks[0]
		if len(list) > 1 {
			body = "[" + strings.Join(tasks, ",") + "]"
		}
		r, ok := s.persist(ctx, t, body)
		for ok && r.status == http.StatusServiceUnavailable && r.header.Get("Retry-After") != "" { // too many at once
			r, ok = s.persist(ctx, t, body)
		}
		if !ok {
			return
		}
		var all []dispatcher.Accepted
		err := json.Unmarshal([]byte(r.body), &all)
		if len(list) == 1 {
			all = make([]dispatcher.Accepted, 1)
			err = json.Unmarshal([]byte(r.body), &all[0])
		}
		if err != nil || r.status != http.StatusAccepted || len(all) != len(list) {
			t.Errorf("%d keys over HTTP: %+v", len(list), r)
			return
		}
		for i, k := range list {
			told.add("http "+k, all[i].ID)
		}
	}
	fromGo := func(list []string) {
		tasks := make([]client.Task, len(list))
		for i, k := range list {
			tasks[i] = client.Task{Kind: "any", Payload: 1, IdempotencyKey: k}
		}
		refs, err := make([]client.Ref, 1), error(client.ErrStillCommitting)
		for errors.Is(err, client.ErrStillCommitting) {
			if len(list) == 1 {
				refs[0], err = c.Enqueue(ctx, tasks[0])
			} else {
				refs, err = c.EnqueueMany(ctx, tasks)
			}
		}
		if err != nil {
			t.Errorf("%d keys from Go: %v", len(list), err)
			return
		}
		for i, k := range list {
			told.add("user "+k, refs[i].ID)
		}
	}
	bySQL := func(k string) {
		var id string
		if err := direct.QueryRow(ctx, `select 'main-1-' || perdure.enqueue(kind => 'any', payload => '1', idempotency_key => $1)`, k).Scan(&id); err != nil {
			t.Errorf("by SQL: %v", err)
			return
		}
		told.add("user "+k, id)
	}

	start, over := make(chan struct{}), make(chan struct{})
	var calls, beside sync.WaitGroup
	for i := range callers {
		calls.Go(func() {
			<-start
			list := []string{key(i / 4)}
			if i/4%10 == 0 {
				for range 4 {
					list = slices.Insert(list, rand.IntN(len(list)+1), key(rand.IntN(keys)))
				}
			}
			switch i % 4 {
			case 0, 1:
				overHTTP(list)
			case 2:
				fromGo(list)
			default:
				bySQL(key(i / 4))
			}
		})
	}
	var mu sync.Mutex
	var took []time.Duration
	for range 4 { // what has no key waits for none
		beside.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				began := time.Now()
				if r := s.post(t, strings.NewReader(one)); r.status != http.StatusAccepted {
					t.Errorf("without a key: %+v", r)
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
			}
		})
	}
	began := time.Now()
	close(start)
	calls.Wait()
	all := time.Since(began)
	close(over)
	beside.Wait()

	slices.Sort(took)
	p99, longest := took[len(took)*99/100], took[len(took)-1]
	t.Logf("%d callers of %d keys answered in %v; %d posts without a key beside them: p50 %v, p99 %v, max %v",
		callers, keys, all.Round(time.Millisecond), len(took), took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond), longest.Round(time.Millisecond))
	// Behind the callers they would take as long as all of those, on whatever machine.
	if p50 := took[len(took)/2]; p50 > all/4 || p99 > max(2*time.Second, all*3/4) {
		t.Errorf("posts without a key took %v, %v (p99) beside callers who took %v", p50, p99, all)
	}
	seen := told.tasks(t)
	if n := outbox(t, s.db); n != 2*keys+len(took) || len(seen) != 2*keys {
		t.Errorf("%d tasks, and %d ids were told; want %d of keys and %d without", n, len(seen), 2*keys, len(took))
	}
}
