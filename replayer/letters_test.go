package replayer

// The letters of a replay: a page after another, in its order, each with its end.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestEachLetterOfAReplaySaysWhatBecameOfIt(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	r.letters(6, 8, func(t *schemas.Task) { t.Deadline = time.Now().Add(-time.Hour) })
	r.letters(9, 12, nil)
	// Ids are no order: the oldest death goes first.
	r.exec(`update perdure.dead_letters set died_at = now() - interval '1 hour' where letter = 'main-1-12@0'`)
	call := served(t, r.jobs, "ann")
	_, plan := call("ann", "POST", "/v1/replays", `{"selector": {"all": true}, "canary": {"letters": 3, "success": 0.5}}`)
	id := plan["id"].(string)
	r.run2(r.replayer("a", &known{}), id, Planned)
	_, plan = call("ann", "GET", "/v1/replays/"+id, "")
	first, _ := plan["first_letters"].([]any)
	if len(first) != Samples || first[0].(map[string]any)["letter"] != "main-1-12@0" || plan["order"] != Order {
		t.Errorf("the plan's first letters: %v, its order: %v", first, plan["order"])
	}
	if status, answer := call("ann", "POST", "/v1/replays/"+id+"/start", ""); status != 200 {
		t.Fatal(answer)
	}
	x := r.replayer("a", &known{})
	stop := r.start(x)
	testkit.Eventually(t, time.Minute, func() (bool, string) { n := r.get(id).Replayed; return n == 3, fmt.Sprint(n) })
	r.outcome(1, false, "")
	r.outcome(2, true, "fp1:bb") // the canary ends the replay
	r.until(id, Stopped)
	stop()
	all := func(query string) (ids []string, says []string) {
		t.Helper()
		cursor := ""
		for range 20 {
			status, page := call("ann", "GET", "/v1/replays/"+id+"/letters?limit=2"+query+cursor, "")
			if status != 200 {
				t.Fatal(page)
			}
			for _, one := range page["letters"].([]any) {
				l := one.(map[string]any)
				ids = append(ids, l["letter"].(string))
				says = append(says, strings.TrimSpace(fmt.Sprint(l["result"], " ", or(l["outcome"]), " ", or(l["group"]))))
			}
			if page["next"] == nil {
				return ids, says
			}
			cursor = fmt.Sprint("&cursor=", page["next"])
		}
		t.Fatal("the pages never end")
		return nil, nil
	}
	ids, says := all("")
	var want []string
	rows, err := r.db.Query(t.Context(), `select letter from perdure.replay_letters where replay = $1 order by n`, id)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var l string
		if err := rows.Scan(&l); err != nil {
			t.Fatal(err)
		}
		want = append(want, l)
	}
	if !slices.Equal(ids, want) || len(ids) != 12 {
		t.Errorf("%v, want %v", ids, want)
	}
	count := map[string]int{}
	for _, s := range says {
		count[s]++
	}
	if count["refused"] != 3 || count["left"] != 6 || count["replayed completed"] != 1 || count["replayed died_again fp1:bb"] != 2 {
		t.Errorf("%v", count)
	}
	for query, n := range map[string]int{"&which=refused": 3, "&which=left": 6, "&which=died_again": 2} {
		if ids, says := all(query); len(ids) != n || len(slices.Compact(says)) != 1 {
			t.Errorf("%s: %v %v", query, ids, says)
		}
	}
	if status, _ := call("ann", "GET", "/v1/replays/r-none/letters", ""); status != 404 {
		t.Errorf("of no replay: %d", status)
	}
	if status, _ := call("ann", "GET", "/v1/replays/"+id+"/letters?whose=left", ""); status != 422 {
		t.Errorf("a misspelt filter: %d", status)
	}
}

func or(v any) any {
	if v == nil {
		return ""
	}
	return v
}
