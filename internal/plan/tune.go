package plan

import (
	"log/slog"
	"os"
	"runtime/debug"
)

// Tune trades memory that is there for fewer collections; as what is kept comes near the
// plan they become frequent again. Without a bound nothing is traded. GOGC and GOMEMLIMIT
// have the last word.
func (m Memory) Tune(logger *slog.Logger) {
	if limit := m.GoLimit(); limit > 0 {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(400)
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(limit)
		}
	}
	if limit, least := debug.SetMemoryLimit(-1), m.Least(); limit < least {
		logger.Warn("GOMEMLIMIT is too low for what histories and state may take: once these are full, the hub may stay overloaded", "limit", limit, "needed", least)
	}
}
