package pg_test

// perdure.enqueue writes most rows in one statement and the rest by steps: which
// of both it was must not show, and the caller's search_path must not matter.

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The arguments behind kind and payload, and what they are where they are left out.
var optional = []struct{ name, none string }{
	{"queue", "null"}, {"key", "null"}, {"idempotency_key", "null"}, {"unique_key", "null"},
	{"run_at", "null"}, {"deadline", "null"}, {"headers", "'{}'"}, {"options", "'{}'"},
}

// outcome is the row that a call of function wrote, as text, or its SQLSTATE.
func outcome(ctx context.Context, tx pgx.Tx, function string, args map[string]string) (string, error) {
	list := make([]string, 0, len(args))
	for name, value := range args {
		list = append(list, name+" => "+value)
	}
	var seq int64
	if err := tx.QueryRow(ctx, "select perdure."+function+"("+strings.Join(list, ", ")+")").Scan(&seq); err != nil {
		return code(err), nil
	}
	var row string
	err := tx.QueryRow(ctx, `select concat_ws(' | ', generation, epoch, run_at, date_trunc('minute', deadline - created_at + interval '1 s') < interval '61 min', date_trunc('minute', deadline), kind, queue, coalesce(key, 'none'), coalesce(task_id, 'none'),
		content_type, coalesce(headers::text, 'none'), encode(payload, 'escape'), checked, xid = pg_current_xact_id(), abs(extract(epoch from clock_timestamp() - created_at)) < 60)
		from perdure.outbox where id = $1`, seq).Scan(&row)
	return row, err
}

func TestTheShortWayWritesWhatTheStepsWrite(t *testing.T) {
	db := producer(t)
	ctx := t.Context()
	if _, err := db.Exec(ctx, `update perdure.kinds set unique_for = '1 hour' where kind = 'brief'`); err != nil {
		t.Fatal(err)
	}
	try := func(kind, payload string, more map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, function := range []string{"enqueue_by_steps", "enqueue_bytes", "enqueue"} {
			args := map[string]string{"kind": kind, "payload": payload + "::jsonb"}
			if function != "enqueue" {
				args["payload"], args["content_type"] = "convert_to("+payload+"::jsonb::text, 'UTF8')", "'application/json'"
			}
			if function == "enqueue_by_steps" { // has no defaults
				for _, o := range optional {
					args[o.name] = o.none
				}
			}
			maps.Copy(args, more)
			tx, err := db.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			got[function], err = outcome(ctx, tx, function, args)
			if rerr := tx.Rollback(ctx); err != nil || rerr != nil { // keys are free again
				t.Fatal(err, rerr)
			}
		}
		want := got["enqueue_by_steps"]
		for _, function := range []string{"enqueue_bytes", "enqueue"} {
			if got[function] != want {
				t.Errorf("%s, kind %s, payload %s, %v:\ngot  %s\nwant %s", function, kind, payload, more, got[function], want)
			}
		}
	}
	if _, err := db.Exec(ctx, `select perdure.enqueue_bytes(kind => 'k', payload => '', content_type => 'application/json')`); code(err) != "PD400" {
		t.Errorf("no bytes: got %s", code(err))
	}
	for _, kind := range []string{"'k'", "'brief'", "'nope'", "null"} {
		for _, payload := range []string{`'{"a": 1}'`, `null`, `to_jsonb(repeat('x', 998))`, `to_jsonb(repeat('x', 999))`} {
			try(kind, payload, nil)
		}
		for name, values := range map[string][]string{
			"queue":           {"null", "'q'", "'other'", "'nope'"},
			"key":             {"'a'", "''", "repeat('x', 512)", "repeat('x', 513)"},
			"idempotency_key": {"'a'", "''"},
			"unique_key":      {"'a'", "''"},
			"run_at":          {"'2998-01-01'", "'infinity'", "'2000-01-01'"},
			"deadline":        {"'2999-01-01'", "'-infinity'", "'2000-01-01'"},
			"headers":         {"null", `'{"a": "b"}'`, `'{"a": 1}'`, `'[]'`},
			"options":         {"null", `'{"a": 1}'`, `'[]'`},
		} {
			for _, v := range values {
				try(kind, `'{}'`, map[string]string{name: v})
			}
		}
	}
}

// TestACallersNamesAreNotRun: the functions run as their owner, so nothing in
// them may be looked up where the caller says.
func TestACallersNamesAreNotRun(t *testing.T) {
	db := producer(t)
	ctx := t.Context()
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the test's own transaction
	exec := func(sql string) {
		t.Helper()
		if _, err := tx.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`create schema theirs`)
	function := func(name, args, returns string) {
		exec(fmt.Sprintf(`create function theirs.%s(%s) returns %s language plpgsql as 'begin raise exception ''%s of theirs was run''; end'`, name, args, returns, name))
	}
	for _, f := range [][3]string{
		{"octet_length", "bytea", "int"}, {"octet_length", "text", "int"}, {"convert_to", "text, name", "bytea"},
		{"clock_timestamp", "", "timestamptz"}, {"nextval", "regclass", "bigint"}, {"enqueue_by_steps", "text, bytea, text, text, text, text, text, timestamptz, timestamptz, jsonb, jsonb", "bigint"},
	} {
		function(f[0], f[1], f[2])
	}
	for i, o := range [][3]string{
		{"=", "text", "text"}, {"=", "jsonb", "jsonb"}, {"=", "int", "int"}, {">", "int", "int"}, {">=", "int", "int"}, {"<=", "int", "int"}, {"<", "int", "int"}, {"<>", "jsonb", "jsonb"},
	} {
		name := fmt.Sprint("compare", i)
		function(name, o[1]+", "+o[2], "bool")
		exec(fmt.Sprintf(`create operator theirs.%s (leftarg = %s, rightarg = %s, function = theirs.%s)`, o[0], o[1], o[2], name))
	}
	function("later", "timestamptz, interval", "timestamptz")
	exec(`create operator theirs.+ (leftarg = timestamptz, rightarg = interval, function = theirs.later)`)
	for _, name := range []string{"text", "bytea", "jsonb", "timestamptz", "outbox", "kinds"} {
		exec(`create temp table "` + name + `" (x int)`)
	}
	exec(`set local search_path = pg_temp, theirs, pg_catalog`)
	for _, call := range []string{
		`enqueue(kind => 'brief', payload => '{}', queue => 'q', key => 'a')`,
		`enqueue_bytes(kind => 'brief', payload => '{}', content_type => 'application/json', queue => 'q', key => 'a')`,
		`enqueue(kind => 'brief', payload => '{}', idempotency_key => 'a', headers => '{"a": "b"}')`,
		`enqueue_bytes(kind => 'brief', payload => '{}', content_type => 'image/png', run_at => '2999-01-01')`,
	} {
		exec(`select perdure.` + call)
	}
}
