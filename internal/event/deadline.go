package event

import (
	"strconv"
	"strings"
	"time"
)

// What a deadline may be.
const (
	MinDeadline = time.Second
	MaxDeadline = 24 * time.Hour
)

// What "offline" may say of an event with a deadline: whether a recipient without a connection
// is reported at its deadline, or at once.
const (
	OfflineWait   = "wait"
	OfflineReport = "report"
)

// ParseDeadline reads a deadline, such as 30s, 5m or 1h30m: whole milliseconds between
// MinDeadline and MaxDeadline.
func ParseDeadline(text string) (time.Duration, bool) {
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= MinDeadline && d <= MaxDeadline && d%time.Millisecond == 0 && strings.Trim(text, "0123456789.hms") == ""
}

// AppendDeadline appends a deadline in its shortest form.
func AppendDeadline(b []byte, d time.Duration) []byte {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if d%unit.of == 0 {
			return append(strconv.AppendInt(b, int64(d/unit.of), 10), unit.name...)
		}
	}
	return append(strconv.AppendInt(b, d.Milliseconds(), 10), "ms"...)
}
