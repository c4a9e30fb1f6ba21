package replayer

// How many letters a second move: go test -bench Replay -run '^$' ./replayer

import (
	"testing"
	"time"
)

func BenchmarkReplay(b *testing.B) {
	r := newRig(b)
	r.bulk(b.N)
	x := r.replayer("bench", &known{})
	x.cfg.Slice = 500
	r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	b.ResetTimer()
	began := time.Now()
	for r.count(`select count(*) from perdure.replays where state = 'running'`) > 0 {
		if _, err := x.turn(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "letters/s")
	if n := r.count(`select count(*) from perdure.outbox`); n != b.N {
		b.Fatalf("%d outbox rows, want %d", n, b.N)
	}
}

// bulk puts n open letters with payloads of about 1 KiB into the index, quickly.
func (r *rig) bulk(n int) {
	r.t.Helper()
	r.letters(0, 0, nil)
	r.exec(`insert into perdure.dead_letters (letter, task_id, kind, queue, key, reason, fingerprint, run, record_key, headers, payload,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, d.kind, d.queue, d.key, d.reason, d.fingerprint, d.run, d.record_key,
  replace(d.headers::text, encode('main-1-0', 'base64'), encode(('main-1-' || i)::bytea, 'base64'))::jsonb,
  convert_to('{"pad": "' || repeat(md5(i::text), 32) || '"}', 'utf8'), 't', 0, i, 'd', 0, i, d.died_at + i * interval '1 ms'
from perdure.dead_letters d, generate_series(1, $1::int) i where d.letter = 'main-1-0@0'`, n)
	r.exec(`delete from perdure.dead_letters where letter = 'main-1-0@0'`)
	r.exec(`analyze perdure.letters, perdure.letter_states`)
}

// BenchmarkWhere: how many letters of about 1 KiB a second a condition looks at.
func BenchmarkWhere(b *testing.B) {
	r := newRig(b)
	r.bulk(b.N)
	b.ResetTimer()
	began := time.Now()
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Where: `.payload.pad != "x" and .epoch == 0`}})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "letters/s")
	if n := r.get(id).Letters; n != int64(b.N) {
		b.Fatalf("%d letters in the plan, want %d", n, b.N)
	}
}
