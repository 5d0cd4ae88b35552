package settings

import (
	"io"
	"log/slog"
)

// NewLogger writes lines of the format and from the level on that are set.
func NewLogger(cfg Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Warn logs which variables are no settings, and which settings do not fit.
func (c *Config) Warn(environ []string, logger *slog.Logger) {
	for _, name := range Unknown(environ) {
		logger.Warn("an unknown setting is ignored: realtimehub -help lists all settings", "variable", name)
	}
	for _, why := range c.Misfits(environ) {
		logger.Warn("settings do not fit together", "why", why)
	}
}
