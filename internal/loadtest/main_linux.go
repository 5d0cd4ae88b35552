//go:build linux

// Loadtest proves what a delivery costs: it measures the hub and, beside it in
// the same run, the bare loop that writes to every socket, and others' servers.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

const usage = `Loadtest measures what the hub costs: CPU time and memory of a server pinned to
one core, with a client on another, beside a bare write(2) loop, nginx with
nchan, servers made with two Go libraries of WebSockets, and Centrifugo, in the
same run. Ratios count; figures depend on the machine. It builds
the hub itself; run it in the module: go run ./internal/loadtest

`

func main() {
	if addr := os.Getenv(bareVariable); addr != "" {
		fmt.Fprintln(os.Stderr, serveBare(addr))
		os.Exit(1)
	}
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// Servers are children of this thread and end with it, see nursery.start.
	runtime.LockOSThread()
	flags := flag.NewFlagSet("loadtest", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	streams := flags.Int("streams", 10000, "how many `streams` to open")
	picked := flags.String("rows", "", "which `rows` to measure, instead of all: "+namesOf(slices.Concat(rows, doorRows(), secureRows()))+", with -nats "+namesOf(natsRows())+", with -data "+namesOf(folderRows()))
	onNATS := flags.Bool("nats", false, "measure hubs that share their history over NATS too: rows beside the hub in memory, from a nats-server that is built as well")
	inFolder := flags.Bool("data", false, "measure a hub that keeps all in a folder instead, beside one in memory")
	binary := flags.String("binary", "", "the hub's `program`, instead of building it")
	before := flags.String("older", "", "an older hub's `program`: what a publish, an event for many and a connect cost, beside it")
	opened := flags.String("door", "sse", "by which `door` streams are opened, where a row does not say: sse, websocket or signalr")
	base := flags.String("url", "", "a hub that runs already, `http://host:port`, on this machine; it is neither pinned nor restarted")
	asJSON := flags.Bool("json", false, "print one JSON document instead of a table")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *streams < 1 {
		return errors.New("want no arguments and at least one stream; -h explains")
	}
	by, err := doorOf(*opened)
	if err != nil {
		return err
	}
	all := slices.Concat(rows, doorRows(), secureRows())
	switch {
	case *onNATS && *inFolder:
		return errors.New("-nats and -data exclude each other")
	case *onNATS:
		all = slices.Concat(all, natsRows())
	case *inFolder:
		all = folderRows()
	}
	if *before != "" {
		all = slices.Concat(all, older())
	}
	var chosen []row
	for name := range strings.SplitSeq(cmp.Or(*picked, namesOf(all)), ",") {
		had := len(chosen)
		for _, row := range all {
			if row.name == name {
				chosen = append(chosen, row)
			}
		}
		if len(chosen) == had {
			return fmt.Errorf("there is no row %q, only %s", name, namesOf(all))
		}
	}

	b, err := newBench(*streams, *binary, *base, *onNATS)
	if err != nil {
		return err
	}
	b.before, b.door = *before, by
	defer b.end()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		b.end()
		os.Exit(130)
	}()

	doc := document{Streams: *streams, Machine: thisMachine()}
	var failed []string
	for _, row := range chosen {
		out := outcome{Name: row.name, Unit: row.unit, Asked: row.asked}
		got, err := row.measure(b)
		if err != nil {
			b.say("%s: %v", row.name, err)
			got = figures{note: err.Error()}
			if !errors.Is(err, errNotRestarted) {
				failed = append(failed, row.name)
			}
		}
		out.Hub, out.Reference, out.ReferenceName, out.Note = got.hub, got.reference, got.beside, got.note
		if out.Hub != nil && out.Reference != nil && *out.Reference > 0 {
			out.Ratio = new(*out.Hub / *out.Reference)
		}
		doc.Rows = append(doc.Rows, out)
	}
	if *asJSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(doc)
	} else {
		err = doc.table(os.Stdout)
	}
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("not measured: %s", strings.Join(failed, ", ")))
	}
	return err
}

// namesOf are rows' names; several rows may have one.
func namesOf(rows []row) string {
	var names []string
	for _, row := range rows {
		names = append(names, row.name)
	}
	return strings.Join(slices.Compact(names), ",")
}

// newBench gets the programs, and then takes the cores.
func newBench(streams int, binary, base string, onNATS bool) (*bench, error) {
	if err := raiseFiles(streams + 100); err != nil {
		return nil, err
	}
	client, core, err := cores()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "loadtest")
	if err != nil {
		return nil, err
	}
	b := &bench{streams: streams, binary: binary, base: base}
	b.nursery = nursery{dir: dir, core: core, client: client, live: map[int]bool{}}
	if client == core {
		b.say("there is one core only: client and server share it")
	}
	if binary == "" && base == "" {
		b.binary, err = b.build("realtimehub", "realtimehub")
	}
	if err == nil && onNATS && base == "" {
		b.natsServer, err = b.build("nats-server", "github.com/nats-io/nats-server/v2")
	}
	if err != nil {
		b.end()
		return nil, err
	}
	if err := pinProcess(client); err != nil {
		b.end()
		return nil, err
	}
	return b, nil
}

// build builds a program into our own directory.
func (b *bench) build(name, pkg string) (path string, err error) {
	b.say("building %s", name)
	path = filepath.Join(b.dir, name)
	if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// raiseFiles makes room for so many open files.
func raiseFiles(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	if limit.Cur >= uint64(n) {
		return nil
	}
	want := syscall.Rlimit{Cur: uint64(n), Max: max(limit.Max, uint64(n))}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("needs %d open files, ulimit -n allows %d: %w", n, limit.Max, err)
	}
	return nil
}

// document is what is printed.
type document struct {
	Machine machine   `json:"machine"`
	Streams int       `json:"streams"`
	Rows    []outcome `json:"rows"`
}

type machine struct {
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// outcome is a row with its figures; nil is what could not be measured.
type outcome struct {
	Name          string   `json:"name"`
	Unit          string   `json:"unit"`
	Hub           *float64 `json:"hub"`
	Reference     *float64 `json:"reference"`
	ReferenceName string   `json:"referenceName"`
	Ratio         *float64 `json:"ratio"`
	Asked         string   `json:"asked"`
	Note          string   `json:"note"`
}

func thisMachine() machine {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // "" where it is hidden
	return machine{runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version()}
}

func (d document) table(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%d streams; %d cores, Linux %s, %s\n\n", d.Streams, d.Machine.Cores, d.Machine.Kernel, d.Machine.Go)
	out.WriteString("| row | hub | beside it | ratio | asked | note |\n|---|--:|--:|--:|---|---|\n")
	for _, row := range d.Rows {
		beside := figure(row.Reference)
		if row.Reference != nil {
			beside += " " + row.ReferenceName
		}
		fmt.Fprintf(&out, "| %s, %s | %s | %s | %s | %s | %s |\n", row.Name, row.Unit, figure(row.Hub), beside, figure(row.Ratio),
			row.Asked, strings.ReplaceAll(cmp.Or(row.Note, " "), "\n", " "))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// figure prints three digits that count.
func figure(f *float64) string {
	if f == nil {
		return "–"
	}
	digits := 2
	if *f != 0 {
		digits = max(0, 2-int(math.Floor(math.Log10(math.Abs(*f)))))
	}
	return fmt.Sprintf("%.*f", digits, *f)
}
