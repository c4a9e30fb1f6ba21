package replayer

// Repairs: what goes, under which key, and what is left alone.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"math/rand/v2"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/schemas"
)

// jqMain is this test's binary as the process that runs jq.
func jqMain() {
	if err := jqchild.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func jqCommand() []string { return []string{os.Args[0], "fix-jq"} }

// mended is catalog with a schema: amount is a number.
func mended(t testing.TB) *schemas.Catalog {
	t.Helper()
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues: {payments: {}}\nkinds:\n  idem: {queue: payments, schema: refund.json}\n  text: {queue: payments}\n"),
		fstest.MapFS{"refund.json": {Data: []byte(`{"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}`)}})
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

// fixing is a replayer with a schema and jq.
func (r *rig) fixing(name string, c Claims) *Replayer {
	r.t.Helper()
	x := r.replayer(name, c)
	x.deps.Catalog, x.deps.JQ, x.cfg.Slice = mended(r.t), jqCommand(), 100
	return x
}

// broken are letters with an amount in quotes, that no run was granted for.
func (r *rig) broken(from, to int) {
	r.t.Helper()
	r.letters(from, to, func(t *schemas.Task) {
		n := strings.TrimPrefix(t.ID, "main-1-")
		t.Payload = []byte(`{"amount": "` + n + `.10", "n": ` + n + `}`)
	})
	r.exec(`update perdure.dead_letters set run = 0, reason = 'schema'`)
}

func (r *rig) words(id string) map[string]int64 {
	words := map[string]int64{}
	for _, x := range r.get(id).Refusals {
		word, _, _ := strings.Cut(x.Why, ":")
		words[word] += x.Letters
	}
	return words
}

func TestRepairedPayloadsGoUnderAKeyOfTheirOwn(t *testing.T) {
	for name, fixer := range map[string]Fixer{
		"jq":    {JQ: `if .n == 3 then empty elif .n == 4 then . elif .n == 5 then .amount = null elif .n == 6 then error else .amount |= tonumber end`},
		"patch": {Patch: json.RawMessage(`[{"op": "test", "path": "/n", "value": 1}, {"op": "replace", "path": "/amount", "value": 1.10}]`)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.broken(1, 10)
			before := r.count(`select hashtext(string_agg(d::text, '' order by letter)) from (select letter, payload, headers, attempts, reason from perdure.dead_letters) d`)
			spec := Spec{Selector: Selector{All: true}, Fixer: &fixer}
			dry := r.plan(Plan{Spec: spec, DryRun: true})
			r.run(r.fixing("a", &known{}))
			want := map[string]int64{"unfixed": 1, "schema": 2, "fixer": 1}
			moved := int64(6)
			if name == "patch" {
				want, moved = map[string]int64{"fixer": 9}, 1
			}
			if j := r.get(dry); j.Replayed != moved || !maps.Equal(r.words(dry), want) {
				t.Errorf("dry run: %d would go, %v: %v", j.Replayed, r.words(dry), j.Refusals)
			}
			fixes, err := r.jobs.Fixes(t.Context(), dry)
			if err != nil || len(fixes) != min(int(moved), Samples) {
				t.Fatalf("samples: %+v, %v", fixes, err)
			}
			f := fixes[0]
			if f.Letter != "main-1-1@0" || f.Repair != 1 || f.Replayed || string(f.Before) != `{"amount": "1.10", "n": 1}` || !strings.HasPrefix(string(f.After), `{"amount":1.1`) ||
				!strings.Contains(f.Diff, "-  \"amount\": \"1.10\",\n+  \"amount\": 1.1") {
				t.Errorf("sample: %+v", f)
			}
			if n := r.count(`select count(*) from perdure.outbox`) + r.count(`select count(*) from perdure.dead_letters where state <> 'open'`); n != 0 {
				t.Errorf("a dry run changed %d rows", n)
			}

			id := r.plan(Plan{Spec: spec, Start: true})
			r.run(r.fixing("a", &known{}))
			if j := r.get(id); j.Replayed != moved || !maps.Equal(r.words(id), want) {
				t.Errorf("%d went, %v: %v", j.Replayed, r.words(id), j.Refusals)
			}
			if n := r.count(`select count(*) from perdure.outbox where epoch = 1 and headers ->> 'perdure_repair' = '1' and headers ->> 'x-user' = 'u'
  and jsonb_typeof(convert_from(payload, 'utf8')::jsonb -> 'amount') = 'number'`); int64(n) != moved {
				t.Errorf("%d repaired rows, want %d", n, moved)
			}
			// What went is kept beside the original, which nothing changed.
			if n := r.count(`select count(*) from perdure.replay_fixes f join perdure.outbox o on o.payload = f.payload where f.replay = $1 and f.moved`, id); int64(n) != moved {
				t.Errorf("%d repaired payloads are kept, want %d", n, moved)
			}
			if after := r.count(`select hashtext(string_agg(d::text, '' order by letter)) from (select letter, payload, headers, attempts, reason from perdure.dead_letters) d`); after != before {
				t.Error("letters were changed")
			}
		})
	}
}

// A repair is refused where a run can have had an effect, unless a person says why
// there was none.
func TestRepairNeedsThatNothingRan(t *testing.T) {
	r := newRig(t)
	r.broken(1, 7)
	r.exec(`update perdure.dead_letters set run = 7 where letter = 'main-1-2@0'`)
	// 3: never granted now, but at an earlier epoch. 4: nothing is known of epoch 0.
	// 5: its claim knows of a run. 6: never granted at either epoch.
	// 7: a record that cannot be decoded claims to be its epoch 0.
	for id, run := range map[string]int{"main-1-3": 7, "main-1-6": 0, "main-1-7": 0} {
		r.exec(`insert into perdure.dead_letters select 'old-' || letter, task_id, 0, kind, queue, key, 'resolved', reason, error_class, message, fingerprint, attempts, $2,
  release, catalog, record_key, headers, payload, content_type, deadline, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at
  from perdure.dead_letters where task_id = $1`, id, run)
	}
	for _, id := range []string{"main-1-3", "main-1-4", "main-1-6", "main-1-7"} {
		r.exec(`update perdure.dead_letters set letter = $1 || '@1', epoch = 1, headers = headers || '[["perdure_epoch", "MQ=="]]' where letter = $1 || '@0'`, id)
	}
	r.exec(`update perdure.dead_letters set reason = 'undecodable' where letter = 'old-main-1-7@0'`)
	k := &known{at: map[string]claims.Claim{"main-1-5": {State: claims.Dead, Run: 9}, "main-1-7": {State: claims.Dead, Epoch: 1},
		"main-1-3": {State: claims.Dead, Epoch: 1}, "main-1-4": {State: claims.Dead, Epoch: 1}, "main-1-6": {State: claims.Dead, Epoch: 1}}}
	fixer := Fixer{JQ: `.amount |= tonumber`}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &fixer}, Start: true})
	r.run(r.fixing("a", k))
	if j := r.get(id); j.Replayed != 2 || r.words(id)["effects"] != 5 {
		t.Errorf("%d went, %v", j.Replayed, j.Refusals)
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id in ('main-1-1', 'main-1-6')`); n != 2 {
		t.Errorf("%d of the two that never ran went", n)
	}
	fixer.NoEffects = "the endpoint answers 422 before it does anything"
	id = r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &fixer}, Start: true})
	r.run(r.fixing("a", k))
	if j := r.get(id); j.Replayed != 5 || j.Refused != 0 {
		t.Errorf("with a decision: %d went, %v", j.Replayed, j.Refusals)
	}
	if n := r.count(`select count(*) from perdure.audit where replay = $1 and what = 'replay.plan' and details -> 'spec' -> 'fixer' ->> 'no_effects' like 'the endpoint%'`, id); n != 1 {
		t.Error("the decision is not in the audit")
	}
}

// What was repaired stays repaired when it is replayed as it is, and a second
// repair is another request again.
func TestRepairsAreCounted(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, func(t *schemas.Task) {
		t.Epoch, t.Repair = 1, 1
		t.Payload = []byte(`{"amount": "1"}`)
		if t.ID == "main-1-2" {
			t.Payload = []byte(`{"amount": 1}`)
		}
	})
	k := &known{at: map[string]claims.Claim{"main-1-1": {State: claims.Dead, Epoch: 1}, "main-1-2": {State: claims.Dead, Epoch: 1}}}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{JQ: `.amount |= tonumber`, NoEffects: "asked the bank"}}, Start: true})
	r.run(r.fixing("a", k))
	if j := r.get(id); j.Replayed != 2 {
		t.Fatalf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.outbox where (task_id, headers ->> 'perdure_repair') in (('main-1-1', '2'), ('main-1-2', '1'))`); n != 2 {
		t.Errorf("%d of 2 rows say how often they were repaired", n)
	}
	if n := r.count(`select count(*) from perdure.replay_fixes`); n != 1 {
		t.Errorf("%d repairs are kept, want the one", n)
	}
}

// A program that does not end harms no other letter, and not its replay's next turns.
func TestAFixerIsStoppedAtItsLimit(t *testing.T) {
	r := newRig(t)
	r.broken(1, 12)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{JQ: `if .n % 6 == 1 then last(range(1e18)) else .amount |= tonumber end`}}})
	r.run(r.fixing("a", &known{}))
	if err := r.jobs.Start(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	r.run(r.fixing("a", &known{}))
	if j := r.get(id); j.Replayed != 10 || r.words(id)["held"] != 2 || j.State != Done {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held' and letter in ('main-1-1@0', 'main-1-7@0')`); n != 2 {
		t.Errorf("%d of 2 letters are held", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'letters.hold' and why like 'its fixer was stopped at a limit: it %'`); n == 0 {
		t.Error("the audit does not say why")
	}
}

// One that never ends ends its replay instead of all its letters.
func TestAFixerThatNeverEndsEndsItsReplay(t *testing.T) {
	r := newRig(t)
	r.broken(1, 12)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Rate: 1000, Fixer: &Fixer{JQ: `"x" * 1e9`}}, Start: true})
	x := r.fixing("a", &known{})
	x.cfg.Slice = 2 // so that it takes several turns
	r.run(x)
	if j := r.get(id); j.State != Stopped || !strings.Contains(j.Note, "fixer: it was stopped at a limit for 5 letters in a row") || j.Replayed != 0 || j.Refused != 5 {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 7 {
		t.Errorf("%d letters are open, want 7", n)
	}
}

func TestAWrongFixerPlansNothing(t *testing.T) {
	r := newRig(t)
	r.broken(1, 1)
	for want, f := range map[string]Fixer{
		"#/fixer/jq at byte 10":           {JQ: `.amount = = 1`},
		"#/fixer/jq at byte 3: function":  {JQ: `. |nope(1)`},
		"#/fixer/jq at byte 3: input(s)":  {JQ: `. |input`},
		"#/fixer give a patch, jq or":     {},
		"#/fixer give a patch, jq or the": {JQ: `.`, Patch: json.RawMessage(`[]`)},
		"#/fixer/patch has 0 operations":  {Patch: json.RawMessage(`[]`)},
		"#/fixer/patch is not a JSON":     {Patch: json.RawMessage(`{"op": "add"}`)},
		"#/fixer/patch/1/op must be":      {Patch: json.RawMessage(`[{"op": "remove", "path": "/a"}, {"op": "set", "path": "/a"}]`)},
		"#/fixer/patch/0/path is missing": {Patch: json.RawMessage(`[{"op": "remove"}]`)},
		"#/fixer/patch/0/path is not a":   {Patch: json.RawMessage(`[{"op": "remove", "path": "a"}]`)},
		"#/fixer/patch/0/from is missing": {Patch: json.RawMessage(`[{"op": "move", "path": "/a"}]`)},
		"#/fixer/patch/0/value is":        {Patch: json.RawMessage(`[{"op": "add", "path": "/a"}]`)},
		"#/fixer/patch/0 is not an":       {Patch: json.RawMessage(`[{"op": 1}]`)},
	} {
		_, err := r.jobs.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &f}, Who: "t"})
		var spec *SpecError
		if !errors.As(err, &spec) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", f, err, want)
		}
	}
	if n := r.count(`select count(*) from perdure.replays`); n != 0 {
		t.Errorf("%d were planned", n)
	}
}

func TestApplyPatch(t *testing.T) {
	for patch, want := range map[string]string{
		`[{"op": "add", "path": "/b", "value": null}]`:                                                                        `{"a":[1.0,12345678901234567890],"b":null}`,
		`[{"op": "remove", "path": "/a/0"}]`:                                                                                  `{"a":[12345678901234567890]}`,
		`[{"op": "add", "path": "/a/-", "value": "<&>"}]`:                                                                     `{"a":[1.0,12345678901234567890,"<&>"]}`,
		`[{"op": "test", "path": "/a/0", "value": 2}, {"op": "remove", "path": "/a"}]`:                                        "operation 0 of the patch (test /a/0) does not apply: the test failed",
		`[{"op": "remove", "path": "/a/0"}, {"op": "remove", "path": "/x/y"}]`:                                                "operation 1 of the patch (remove /x/y) does not apply: nothing is there",
		`[{"op": "remove", "path": "/a/-1"}]`:                                                                                 "operation 0 of the patch (remove /a/-1) does not apply",
		`[{"op": "add", "path": "/a/9999999999", "value": 1}]`:                                                                "operation 0 of the patch (add /a/9999999999) does not apply",
		`[` + strings.Repeat(`{"op": "copy", "from": "/a", "path": "/a/-"},`, 60) + `{"op": "test", "path": "", "value": 1}]`: "copies more than",
	} {
		p, wrong := parsePatch("#", []byte(patch))
		if wrong != nil {
			t.Errorf("%s: %v", patch, wrong)
			continue
		}
		got, err := applyPatch(p, []byte(` {"a": [1.0, 12345678901234567890]}`))
		if err != nil {
			got = []byte(err.Error())
		}
		if !strings.Contains(string(got), want) {
			t.Errorf("%.200s gave %.200s, want %s", patch, got, want)
		}
	}
}

// A letter whose payload is not JSON is left alone; so is one larger than it may be.
func TestPayloadsThatCannotBeRepaired(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, func(t *schemas.Task) { t.Kind, t.ContentType, t.Payload = "text", "text/plain", []byte("amount 1") })
	r.letters(2, 3, func(t *schemas.Task) {
		t.Kind, t.Payload = "text", []byte(`{"n": `+strings.TrimPrefix(t.ID, "main-1-")+`}`)
	})
	r.exec(`update perdure.dead_letters set run = 0`)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{JQ: `if .n == 2 then .x = "y" * 1048576 else .x = 1 end`}}, Start: true})
	r.run(r.fixing("a", &known{}))
	if w := r.words(id); r.get(id).Replayed != 1 || w["fixer"] != 1 || w["held"] != 1 {
		t.Errorf("%+v", r.get(id))
	}
}

// Killed between the fixer and the move, again and again: each letter goes once.
func TestKilledWhileItRepairs(t *testing.T) {
	r := newRig(t)
	const n = 24
	r.broken(1, n)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Patch: json.RawMessage(`[{"op": "replace", "path": "/amount", "value": 1}]`)}}, Start: true})
	kills := 0
	for began := time.Now(); r.get(id).State == Running; {
		if time.Since(began) > 2*time.Minute {
			t.Fatal("it makes no progress")
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REPLAYER_TEST_CHILD="+r.url, fmt.Sprintf("REPLAYER_TEST_STEPS=%d", 1+rand.IntN(20)), fmt.Sprintf("REPLAYER_TEST_NAME=child-%d", kills))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			kills++
		} else if err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if kills == 0 {
		t.Error("no kill")
	}
	if got, all := r.count(`select count(distinct task_id) from perdure.outbox where headers ->> 'perdure_repair' = '1'`), r.count(`select count(*) from perdure.outbox`); got != n || all != n {
		t.Errorf("%d tasks, %d rows after %d kills, want %d", got, all, kills, n)
	}
	if got := r.count(`select count(*) from perdure.replay_fixes where moved`); got != n {
		t.Errorf("%d repairs are kept, want %d", got, n)
	}
}

// A fixer is a part of what is pinned, and a plan without one is what it was.
func TestTheHashPinsTheFixer(t *testing.T) {
	r := newRig(t)
	r.broken(1, 3)
	var hashes []string
	for _, f := range []*Fixer{nil, {JQ: `.`}, {JQ: `. `}, {JQ: `.`, NoEffects: "none"}, {Patch: json.RawMessage(`[{"op":"remove","path":"/n"}]`)}} {
		hash := r.get(r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: f}})).Hash
		if slices.Contains(hashes, hash) {
			t.Errorf("%+v has another's hash", f)
		}
		hashes = append(hashes, hash)
	}
}
