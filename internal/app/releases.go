package app

// Which release each live worker runs, for policies that wait for a newer one.

import (
	"context"
	"strings"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/replayer"
)

// liveWorkers reads what workers say of themselves with their beats.
func liveWorkers(store *claims.Store) func(context.Context) ([]replayer.LiveWorker, error) {
	return func(ctx context.Context) ([]replayer.LiveWorker, error) {
		peers, err := store.Living(ctx)
		if err != nil {
			return nil, err
		}
		var list []replayer.LiveWorker
		for _, p := range peers {
			if t, ok := claims.ReadTold(p.Line); ok {
				name, _, _ := strings.Cut(p.Process, "/")
				list = append(list, replayer.LiveWorker{Name: name, Release: t.Release, Queues: t.Queues})
			}
		}
		return list, nil
	}
}
