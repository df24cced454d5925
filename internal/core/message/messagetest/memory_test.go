package messagetest_test

import (
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
)

func TestMemory(t *testing.T) {
	messagetest.RunFabric(t, func(t *testing.T) message.Fabric { return messagetest.New(time.Now, t.Cleanup) })
}
