package dispatcher

// GET /v1/queues and GET /v1/queues/{queue}/scaling.

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
)

// Scaling is what an autoscaler asks for; see scaling.go for how it is made.
type Scaling struct {
	DesiredWorkers int     `json:"desired_workers" doc:"for KEDA: valueLocation desired_workers, targetValue 1"`
	BacklogTasks   int64   `json:"backlog_tasks" doc:"accepted and not finished: outbox, due, parked, and uncommitted on tasks.<queue>; counted up to 100000 in Postgres"`
	BacklogSeconds float64 `json:"backlog_seconds" doc:"to work that off at the present rate; 0: nothing waits, or the rate is not known yet"`
	OldestSeconds  float64 `json:"oldest_seconds" doc:"age of the oldest of them, to about a tenth"`
	Running        int     `json:"running" doc:"workers in the queue's consumer group"`
}

// QueueView is one queue of the list.
type QueueView struct {
	Queue      string `json:"queue"`
	Partitions int    `json:"partitions"`
	Scaling
}

type queueList struct {
	Body struct {
		Queues []QueueView `json:"queues"`
	}
}

type queueScaling struct{ Body Scaling }

type queueName struct {
	Queue string `path:"queue"`
}

// scalingTimeout bounds all that one signal asks of Kafka and Postgres.
const scalingTimeout = 10 * time.Second

func (d *Dispatcher) queueRoutes(a *api.API) {
	api.Register(a, api.ReadMeta, huma.Operation{
		OperationID: "list-queues", Method: http.MethodGet, Path: "/v1/queues",
		Summary: "The catalog's queues and what waits on each",
	}, func(ctx context.Context, _ *struct{}) (*queueList, error) {
		out := &queueList{}
		out.Body.Queues = []QueueView{}
		for _, name := range d.cat.QueueNames() {
			s, err := d.scalingOf(ctx, name)
			if err != nil {
				return nil, err
			}
			out.Body.Queues = append(out.Body.Queues, QueueView{Queue: name, Partitions: d.cat.Queues[name].Partitions, Scaling: s})
		}
		return out, nil
	})
	api.Register(a, api.ReadMeta, huma.Operation{
		OperationID: "queue-scaling", Method: http.MethodGet, Path: "/v1/queues/{queue}/scaling",
		Summary: "How many workers a queue wants; right also when it has none",
	}, func(ctx context.Context, in *queueName) (*queueScaling, error) {
		if d.cat.Queues[in.Queue] == nil {
			return nil, api.NewProblem(http.StatusNotFound, "no-such-queue", "no queue of the catalog has this name").WithNext("perdure queues ls")
		}
		s, err := d.scalingOf(ctx, in.Queue)
		if err != nil {
			return nil, err
		}
		return &queueScaling{s}, nil
	})
}

func (d *Dispatcher) scalingOf(ctx context.Context, queue string) (Scaling, error) {
	ctx, cancel := context.WithTimeout(ctx, scalingTimeout)
	defer cancel()
	s, away, err := d.scaling.signal(ctx, queue)
	if err != nil {
		d.log.WarnContext(ctx, "scaling signal", "queue", queue, "error", err)
		return Scaling{}, api.NewProblem(http.StatusServiceUnavailable, "unavailable", away+" does not answer, so what waits is not known").
			WithRetryAfter(time.Second).WithNext("perdure doctor")
	}
	return s, nil
}
