package disputes

// The files of the example, so that the demo runs from any folder.

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"

	"github.com/perdure/perdure/schemas"
)

//go:generate sh -c "go run ./generate > disputes.ndjson"

//go:embed catalog.yaml schemas/*.json
var catalogFiles embed.FS

//go:embed disputes.ndjson
var input []byte

// The kinds of the workflow, in the order of a dispute's life.
const (
	KindIntake      = "dispute.intake"
	KindInvestigate = "dispute.investigate"
	KindResolve     = "dispute.resolve"
)

// Input is disputes.ndjson. The caller must not change it.
func Input() []byte { return input }

// Catalog is catalog.yaml with its schemas.
func Catalog() (*schemas.Catalog, error) {
	text, err := catalogFiles.ReadFile("catalog.yaml")
	if err != nil {
		return nil, fmt.Errorf("disputes: %w", err)
	}
	return schemas.ParseCatalog("examples/disputes/catalog.yaml", text, catalogFiles)
}

// WriteCatalog puts catalog.yaml and its schemas into dir, which must not be
// there yet, and returns the catalog's path.
func WriteCatalog(dir string) (path string, err error) {
	if err := os.CopyFS(dir, catalogFiles); err != nil {
		return "", fmt.Errorf("disputes: write the catalog: %w", err)
	}
	return filepath.Join(dir, "catalog.yaml"), nil
}
