//go:build soak

package relay

import (
	"testing"
	"time"
)

func TestSoakATopicWithoutEnoughReplicas(t *testing.T) { withoutReplicas(t, time.Minute) }
