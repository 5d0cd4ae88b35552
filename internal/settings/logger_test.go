package settings

import (
	"bytes"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// What is no setting and what does not fit is logged by its name, each in one line.
func TestSettingsAreWarnedOf(t *testing.T) {
	is := is.New(t)
	environ := []string{"REALTIME_LOG_FORMAT=json", "REALTIME_GRASE=5s", "REALTIME_SYNC=1s"}
	cfg, err := Load(environ)
	is.NoErr(err)
	var logs bytes.Buffer
	cfg.Warn(environ, NewLogger(cfg, &logs))
	lines := strings.Split(strings.TrimSpace(logs.String()), "\n")
	is.Equal(len(lines), 2)
	is.True(strings.Contains(lines[0], `"variable":"REALTIME_GRASE"`))
	is.True(strings.Contains(lines[1], `"why":"REALTIME_SYNC needs REALTIME_DATA"`))
}
