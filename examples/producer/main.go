// Command producer enqueues a task in the transaction that writes an order.
//
//	perdure up            # in one terminal
//	go run ./examples/producer Ada
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: producer NAME")
	}
	if err := run(context.Background(), os.Getenv("PERDURE_POSTGRES_URL"), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, name string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	tasks, err := client.New(ctx, pool)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// Your own rows go here: they commit with the task, or not at all.
		ref, err := tasks.EnqueueTx(ctx, tx, client.Task{
			Kind:    "hello.say",
			Payload: map[string]string{"name": name},
		})
		if err == nil {
			fmt.Println(ref.ID)
		}
		return err
	})
}
