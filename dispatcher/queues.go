package dispatcher

// GET /v1/queues and the scaling signal.

import "github.com/perdure/perdure/internal/api"

func (d *Dispatcher) queueRoutes(_ *api.API) {}
