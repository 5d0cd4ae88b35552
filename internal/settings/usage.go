package settings

import (
	"fmt"
	"io"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Usage is how the program is called.
const Usage = `Usage:

  realtimehub               serve; settings are environment variables, -help lists them
  realtimehub backup FILE   write all that is kept in REALTIME_DATA or REALTIME_NATS_URL to a file
  realtimehub restore FILE  have a new folder, or new servers, keep what a backup has. With - in
                            place of FILE, backup writes to standard output, and restore reads
                            standard input
  realtimehub doctor URL    say what stands between this machine and a hub; doctor -h explains
  realtimehub why EVENT PROFILE
                            say what came of an event for somebody, and why; why -h explains
  realtimehub outbox        print what services are told
  realtimehub -health       ask the hub at REALTIME_ADDR whether it is alive, and exit 0 or 1
  realtimehub -version      say what this is
  realtimehub -help         show this, and all settings
`

var (
	settingRow   = regexp.MustCompile("(?m)^\\| `(REALTIME_[A-Z_]+)` \\| ([^|]+) \\| (.*) \\|$")
	markdownLink = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
)

const helpWidth = 100 // columns

// PrintHelp says how the program is called and, of each setting, its default and what
// README says first of it.
func PrintHelp(w io.Writer, readme string) {
	fmt.Fprint(w, Usage, "\nSettings, and their defaults. Durations are Go's (15s), sizes are bytes, 0 lifts a limit.\nREADME.md says more of each.\n\n")
	for _, row := range settingRow.FindAllStringSubmatch(readme, -1) {
		name, standard, why := row[1], strings.Trim(row[2], "`"), row[3]
		if standard == "–" {
			standard = "none"
		}
		fmt.Fprintf(w, "  %s (%s)\n", name, standard)
		why, _, _ = strings.Cut(why, "; ")
		line := "     "
		for word := range strings.FieldsSeq(strings.ReplaceAll(markdownLink.ReplaceAllString(why, "$1"), "`", "")) {
			if len(line)+1+len(word) > helpWidth {
				fmt.Fprintln(w, line)
				line = "     "
			}
			line += " " + word
		}
		fmt.Fprintln(w, line)
	}
}

// Version says what was built, from what, with what and for what.
func Version() string {
	module, revision, changed := "unknown", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		module = info.Main.Version
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = " " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = " (changed since)"
			}
		}
	}
	return fmt.Sprintf("realtimehub %s%s%s %s %s/%s", module, revision, changed, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
