package disputes

// The example's tables.

import (
	"context"
	_ "embed" // tables.sql
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed tables.sql
var tables string

// CreateTables makes the example's tables where they are missing.
func CreateTables(ctx context.Context, db *pgxpool.Pool) error {
	if _, err := db.Exec(ctx, tables); err != nil {
		return fmt.Errorf("disputes: create tables: %w", err)
	}
	return nil
}
