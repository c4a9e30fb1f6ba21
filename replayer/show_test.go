package replayer

import (
	"testing"
	"time"
)

// A replay without a rate is expected to go as fast as the latest large one did, else as
// fast as is written down.
func TestWithoutARateExpectedIsWhatOthersReached(t *testing.T) {
	r := newRig(t)
	r.letters(1, 4, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}})
	r.exec(`update perdure.replays set letters = 30000 where replay = $1`, id)
	if got := time.Duration(r.get(id).Expected); got != 3*time.Second {
		t.Errorf("as nothing is known: %v", got)
	}
	for _, other := range []struct {
		id, spec string
		letters  int
		seconds  float64
	}{{"r-slow", `{}`, 20_000, 10}, {"r-fast", `{"canary": {"letters": 100}}`, 20_100, 4}, {"r-small", `{}`, 500, 0.01}, {"r-rated", `{"rate": 100000}`, 20_000, 0.2}} {
		r.exec(`insert into perdure.replays (replay, state, selector, spec, who, letters, replayed) values ($1, 'done', '{}', $2::jsonb, 't', $3, $3)`, other.id, other.spec, other.letters)
		r.exec(`insert into perdure.replay_letters (replay, letter, n, result, done_at) select $1, 'l', n, 'replayed', case when n <= 100 then now() - interval '1 hour' else now() end
from generate_series(1, 101) n union all select $1, 'l', $2, 'replayed', now() + make_interval(secs => $3)`, other.id, other.letters, other.seconds)
	}
	if got := time.Duration(r.get(id).Expected); got != 6*time.Second { // 20,000 in 4 s
		t.Errorf("where another reached 5,000 a second: %v", got)
	}
}

// The expected duration is when the last letter goes at the rate that rateAt allows,
// moment by moment: also where all of them go while it is still growing.
func TestExpectedIsWhenTheLastLetterGoes(t *testing.T) {
	const step = time.Millisecond
	for _, c := range []struct {
		state  State
		left   int64
		rate   float64
		ramp   time.Duration
		ramped time.Duration
	}{
		{Planned, 10, 100, time.Minute, 0},
		{Planned, 100, 100, time.Minute, 0},
		{Planned, 10_000, 100, time.Minute, 0},
		{InCanary, 1000, 50, 10 * time.Second, 0},
		{Ramping, 40, 100, time.Minute, 2 * time.Second},
		{Ramping, 500, 100, time.Minute, 30 * time.Second},
		{Ramping, 5000, 100, time.Minute, 30 * time.Second},
		{Ramping, 5000, 100, time.Minute, 2 * time.Minute},
		{Running, 500, 100, time.Minute, 0},
		{Planned, 500, 100, 0, 0},
		{Planned, 0, 100, time.Minute, 0},
	} {
		r := &Replay{State: c.state, Left: c.left, Spec: Spec{Rate: c.rate, Ramp: Duration(c.ramp)}}
		got := time.Duration(expected(r, c.ramped))
		state := c.state
		if state != Running && c.ramp > 0 {
			state = Ramping
		}
		var want time.Duration
		for left := float64(c.left); left > 0; want += step {
			left -= rateAt(state, &r.Spec, c.ramped+want) * step.Seconds()
		}
		if diff := (got - want).Abs(); diff > 100*time.Millisecond+want/100 {
			t.Errorf("%+v: expected %v, and it takes %v", c, got, want)
		}
	}
	r := &Replay{State: Paused, Resumes: Running, Left: 500, Spec: Spec{Rate: 100, Ramp: Duration(time.Minute)}}
	if got := time.Duration(expected(r, 0)); got != 5*time.Second {
		t.Errorf("paused behind its ramp: %v", got)
	}
	r = &Replay{State: Planned, Left: 2 * unlimited, Spec: Spec{}}
	if got := time.Duration(expected(r, 0)); got != 2*time.Second {
		t.Errorf("without a rate: %v", got)
	}
}
