package nats_test

import (
	"fmt"
	"testing"

	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

// TestConformance is the suite that core has for every fabric.
func TestConformance(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		messagetest.RunFabric(t, func(t *testing.T) message.Fabric { return opened(t, options(t.TempDir())) })
	})
	t.Run("embedded, on disk", func(t *testing.T) {
		messagetest.RunFabric(t, func(t *testing.T) message.Fabric {
			o := options(t.TempDir())
			o.Durability = nats.Disk
			return opened(t, o)
		})
	})
	t.Run("three nodes", func(t *testing.T) {
		o := cluster(natstest.Start(t, 3))
		o.MaxBytes = 4 << 20
		n := 0
		messagetest.RunFabric(t, func(t *testing.T) message.Fabric {
			n++
			o.Name = fmt.Sprintf("part%d", n)
			return opened(t, o)
		})
	})
}
