package doctor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Exit codes of the command.
const (
	exitFine    = 0
	exitTrouble = 1
	exitFailed  = 2
)

const usage = `Usage: realtimehub doctor URL [-for 30s] [-door sse] [-token TOKEN] [-json]

Doctor says what stands between this machine and a hub: proxies that hold events
back, that cut silent streams, or all streams after a time. It tries each of the
hub's doors and says which one to use. URL is the hub's as its clients know it. It
exits 0 when streams work by the door that -door names, 1 when they have trouble,
and 2 when not all could be examined.

`

// Command runs the command with its arguments and returns its exit code. The report
// goes to out, all else to errs.
func Command(ctx context.Context, args []string, getenv func(string) string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, usage)
		flags.PrintDefaults()
	}
	lasts := flags.Duration("for", 30*time.Second, "how long the streams are watched, a `TIME` such as 90s or 5m: longer than the limits to be found; a 16th is added")
	// No default here: PrintDefaults would print the token.
	token := flags.String("token", "", "a credential of any scope, `TOKEN`; without it the environment's REALTIME_TOKEN, which other users do not see")
	door := flags.String("door", string(SSE), "the `DOOR` that your clients use: "+strings.Join(doorNames(), ", ")+"; what troubles others is only noted")
	origin := flags.String("origin", "", "the `ORIGIN` of the pages that open WebSockets, such as https://app.example.com; without it the hub's own")
	asJSON := flags.Bool("json", false, "print one JSON document instead of words")
	var urls []string
	for rest := args; ; { // package flag stops at the first that is none
		if err := flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return exitFine
		} else if err != nil {
			return exitFailed
		}
		if flags.NArg() == 0 {
			break
		}
		urls, rest = append(urls, flags.Arg(0)), flags.Args()[1:]
	}
	if len(urls) != 1 {
		fmt.Fprintf(errs, "realtimehub doctor: it takes one URL, not %d\n\n", len(urls))
		flags.Usage()
		return exitFailed
	}
	cfg := Config{URL: urls[0], Token: cmp.Or(*token, getenv("REALTIME_TOKEN")), For: *lasts, Door: Door(*door), Origin: *origin}
	line := newLine(errs)
	cfg.Progress = line.show
	report, err := Run(ctx, cfg)
	line.clear()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted before anything was found out")
		}
		fmt.Fprintln(errs, "realtimehub doctor:", plain(err.Error()))
		return exitFailed
	}
	if *asJSON {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		encoder.Encode(report)
		out.Write(plainJSON(text.Bytes()))
	} else {
		fmt.Fprint(out, report)
	}
	switch report.Verdict {
	case Failed:
		return exitFailed
	case Trouble:
		return exitTrouble
	}
	return exitFine
}

// line is the progress: one line that is written over on a terminal, else a line now
// and then.
type line struct {
	w        io.Writer
	terminal bool
	next     time.Duration // when the next plain line is due
	width    int           // of what stands there
}

const plainEvery = 5 * time.Second

func newLine(w io.Writer) *line {
	l := &line{w: w, next: plainEvery}
	if file, ok := w.(*os.File); ok {
		info, err := file.Stat()
		l.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return l
}

func (l *line) show(p Progress) {
	if !l.terminal && p.Passed < l.next {
		return
	}
	text := fmt.Sprintf("%.0f of %.0f s: %d events, the last %.1f s ago; the silent stream is ", p.Passed.Seconds(), p.Of.Seconds(), p.Ticks, p.Last.Seconds())
	if p.Silent {
		text += "open"
	} else {
		text += "over"
	}
	if !l.terminal {
		l.next = p.Passed.Truncate(plainEvery) + plainEvery
		fmt.Fprintln(l.w, text)
		return
	}
	fmt.Fprintf(l.w, "\r%-*s", l.width, text)
	l.width = len(text)
}

func (l *line) clear() {
	if l.width > 0 {
		fmt.Fprintf(l.w, "\r%*s\r", l.width, "")
	}
}

// String is the report in words.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", plain(r.URL))
	mark := map[Severity]string{Fine: "ok     ", Note: "note   ", Trouble: "TROUBLE", Failed: "FAILED "}
	for i, f := range r.Findings {
		if i == 0 || f.Severity != Fine || r.Findings[i-1].Severity != Fine {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s (%s)\n", mark[f.Severity], plain(f.Says), f.name())
		for _, a := range f.Advice {
			if f.Severity == Trouble || a.Seen {
				seen := ""
				if a.Seen {
					seen = ", which is on the way"
				}
				fmt.Fprintf(&b, "         - %s%s: %s\n", a.Proxy, seen, a.Change)
			}
		}
	}
	r.writeDoors(&b)
	switch {
	case r.Verdict == Failed && r.Hub != nil:
		b.WriteString("\nNot all could be seen: run this again.\n")
	case r.Verdict == Fine:
		b.WriteString("\nStreams work.\n")
	case r.Verdict == Trouble:
		b.WriteString("\nStreams suffer: change what is said above where it applies, and run this again.\n")
	default:
		b.WriteString("\nNothing could be examined.\n")
	}
	return b.String()
}

// name is a finding's code, with its door where that is another than Server-Sent Events.
func (f *Finding) name() string {
	if f.Door == SSE {
		return f.Code
	}
	return string(f.Door) + ": " + f.Code
}

// writeDoors writes which doors work, and which one to use.
func (r *Report) writeDoors(b *strings.Builder) {
	if len(r.Doors) == 0 {
		return
	}
	b.WriteString("\n")
	says := map[Severity]string{Fine: "works", Trouble: "has trouble", Failed: "is not known"}
	for _, d := range r.Doors {
		fmt.Fprintf(b, "%-10s  %s", d.Path, says[d.Verdict])
		if len(d.Why) > 0 {
			fmt.Fprintf(b, ": %s", strings.Join(d.Why, ", "))
		}
		b.WriteString("\n")
	}
	if r.Use == "" {
		b.WriteString("No door works as things are.\n")
	} else {
		fmt.Fprintf(b, "Use %s: %s.\n", doors[r.Use].path, doors[r.Use].name)
	}
}
