package execution

import (
	"time"

	"github.com/perdure/perdure/schemas"
)

// Failure is how work that went on elsewhere failed, as it is kept in a claim
// until a worker acts on it.
type Failure struct {
	Outcome schemas.Outcome `json:"outcome"` // retry, dead, unknown
	Class   string          `json:"class,omitempty"`
	Message string          `json:"message,omitempty"`
	After   time.Duration   `json:"after,omitempty"` // retry: not sooner
	By      string          `json:"by,omitempty"`    // who reported it
}
