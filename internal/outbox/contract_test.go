package outbox_test

import (
	"testing"

	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
)

func TestMemory(t *testing.T) {
	outboxtest.Run(t, outboxtest.Kind{Open: func(*testing.T) outbox.Box { return outbox.NewMemory(outbox.MemoryConfig{}) }})
}
