package replayer

// GET /v1/replays/{id}/watch: a replay as it goes on, as server-sent events.

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// watchPoll is how often the row is read; keepAlive how often something is said
// to a client, so that no proxy takes the line for dead.
const (
	watchPoll = 250 * time.Millisecond
	keepAlive = 15 * time.Second
)

// settled reports whether nothing about a replay will change by itself any more.
func settled(r *Replay) bool {
	return r.State.Over() && (r.Became == nil || r.Became.UnderWay <= 0)
}

func (j *Jobs) httpWatch(ctx context.Context, in *replayInput) (*huma.StreamResponse, error) {
	first, err := j.Get(ctx, in.ID)
	if err != nil {
		return nil, problem(err)
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", "text/event-stream")
		c.SetHeader("Cache-Control", "no-store")
		c.SetHeader("X-Accel-Buffering", "no") // nginx would hold events back
		c.SetStatus(http.StatusOK)
		out := c.BodyWriter()
		say := func(b []byte) bool {
			if _, err := out.Write(b); err != nil {
				return false // the client is gone
			}
			if f, ok := out.(http.Flusher); ok {
				f.Flush()
			}
			return true
		}
		j.follow(c.Context(), first, func(event string, r *Replay) bool {
			b, err := json.Marshal(r)
			return err == nil && say([]byte("event: "+event+"\ndata: "+string(b)+"\n\n"))
		}, func() bool { return say([]byte(": still there\n\n")) })
	}}, nil
}

// follow says a replay each time it changes, until it is settled ("end") or
// nobody listens.
func (j *Jobs) follow(ctx context.Context, r *Replay, say func(event string, r *Replay) bool, idle func() bool) {
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	var last string
	said := time.Now()
	for {
		now, _ := json.Marshal([]any{r.State, r.Note, r.Looked, r.Replayed, r.Refused, r.Became, r.Spec.Rate})
		switch end := settled(r); {
		case end:
			if whole, err := j.Get(ctx, r.ID); err == nil {
				r = whole
			}
			say("end", r)
			return
		case string(now) != last:
			if !say("replay", r) {
				return
			}
			last, said = string(now), time.Now()
		case time.Since(said) > keepAlive:
			if !idle() {
				return
			}
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next, err := j.glance(ctx, r.ID)
		if err != nil {
			return // the client asks again, and is told
		}
		r = next
	}
}
