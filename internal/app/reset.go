package app

// Mending an outbox after its database was replaced, and deciding what a reset
// held. Each reads the environment as the relay does.

import (
	"context"
	"fmt"
	"log/slog"
	"os/user"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/relay"
	"github.com/perdure/perdure/schemas"
)

// ResetOutbox is relay.Reset with the servers of cfg.
func ResetOutbox(ctx context.Context, cfg config.Config, cat *schemas.Catalog, opt relay.ResetOptions) (rep *relay.ResetReport, err error) {
	log := slog.New(slog.DiscardHandler)
	opts, err := kafka.ClientOpts(cfg, "outbox", "reset", log)
	if err != nil {
		return nil, err
	}
	opt.Who = person()
	err = direct(ctx, cfg, func(db *pgxpool.Pool) error {
		rep, err = relay.Reset(ctx, relay.Config{Source: cfg.Source, Release: cfg.Release},
			relay.Deps{DB: db, Kafka: opts, Names: kafka.Names{Prefix: cfg.KafkaTopicPrefix}, Catalog: cat, Log: log}, opt)
		return err
	})
	return rep, err
}

// HeldTasks lists what a reset held, limit at most, and counts all of it.
func HeldTasks(ctx context.Context, cfg config.Config, limit int) (list []relay.Held, total int64, err error) {
	err = direct(ctx, cfg, func(db *pgxpool.Pool) error {
		list, total, err = relay.ReadHeld(ctx, db, cfg.Source, limit)
		return err
	})
	return list, total, err
}

// ReleaseHeld sends held tasks after all; as are their seqs then. It stops at
// the first that fails.
func ReleaseHeld(ctx context.Context, cfg config.Config, seqs []int64, newID bool) (as []int64, err error) {
	err = direct(ctx, cfg, func(db *pgxpool.Pool) error {
		for _, seq := range seqs {
			n, err := relay.Release(ctx, db, seq, newID, person())
			if err != nil {
				return err
			}
			as = append(as, n)
		}
		return nil
	})
	return as, err
}

// DiscardHeld drops held tasks. It stops at the first that fails.
func DiscardHeld(ctx context.Context, cfg config.Config, seqs []int64, why string) error {
	return direct(ctx, cfg, func(db *pgxpool.Pool) error {
		for _, seq := range seqs {
			if err := relay.Discard(ctx, db, seq, person(), why); err != nil {
				return err
			}
		}
		return nil
	})
}

// direct opens the database past a pooler for the time of do.
func direct(ctx context.Context, cfg config.Config, do func(*pgxpool.Pool) error) error {
	url, err := DirectURL(cfg)
	if err != nil {
		return err
	}
	db, err := pg.Pool(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := pg.CheckVersion(ctx, db); err != nil {
		return err
	}
	return do(db)
}

// person is who types the command, for the audit.
func person() string {
	u, err := user.Current()
	if err != nil {
		return "cli"
	}
	return fmt.Sprintf("cli:%s", u.Username)
}
