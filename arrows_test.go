package main

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows is the architecture: which file may know which. Nothing knows main, and
// arrows run one way.
var arrows = map[string][]string{
	"names":          {},
	"target":         {"names"},
	"event":          {"target"},
	"filter":         {"names"},
	"faults":         {"filter", "target", "names"},
	"validate":       {"faults", "event", "target", "names"},
	"deadlines":      {},
	"profiles":       {},
	"certificate":    {"reread"},
	"reread":         {},
	"doors":          {},
	"usage":          {},
	"weight":         {"event", "target", "names"},
	"store":          {"weight", "names", "event", "target"},
	"lists":          {"tables", "event", "target"},
	"dropped":        {"store", "event", "target"},
	"shelf":          {"lists", "dropped", "store", "event", "target"},
	"ids":            {"shelf", "lists", "tables", "deadlines"},
	"memory":         {"ids", "shelf", "store", "event"},
	"rooms":          {"connection", "tables", "store", "target", "names"},
	"counts":         {"target"},
	"complaints":     {"counts"},
	"peers":          {"counts", "target"},
	"natslog":        {"shelf", "store", "validate", "event"},
	"natsrooms":      {"natslog", "peers", "rooms", "store", "target"},
	"natspeers":      {"peers", "target"},
	"nats":           {"natspeers", "natsrooms", "natslog", "peers", "rooms", "shelf", "store"},
	"membership":     {"turns", "rooms", "faults", "target"},
	"connection":     {"counts", "deadlines", "filter", "target", "names"},
	"parcel":         {"connection", "store", "event", "target"},
	"frames":         {"connection", "counts", "store", "event", "target"},
	"directory":      {"connection", "tables"},
	"returns":        {},
	"overload":       {},
	"tenant":         {"parcel", "quotas", "rooms", "connection", "tables", "store", "filter", "event", "target", "names"},
	"resume":         {"tenant", "frames", "parcel", "connection", "counts", "rooms", "store", "filter", "event", "target"},
	"expiry":         {"turns", "connection", "deadlines"},
	"tenants":        {"tenant", "quotas", "rooms", "store", "event", "target"},
	"members":        {"turns", "tenants", "tenant", "rooms", "store", "event", "target", "faults", "names"},
	"streams":        {"turns", "overload", "returns", "members", "tenants", "expiry", "resume", "tenant", "directory", "frames", "connection", "counts", "rooms", "store", "filter", "target"},
	"dispatcher":     {"streams", "members", "tenants", "tenant", "directory", "frames", "parcel", "connection", "counts", "store", "event", "target"},
	"hub":            {"quotas", "overload", "dispatcher", "streams", "members", "tenants", "resume", "tenant", "directory", "frames", "counts", "rooms", "store", "event", "target"},
	"typing":         {"hub", "dispatcher", "members", "quotas", "tables", "deadlines", "event", "target", "names"},
	"presence":       {"turns", "typing", "hub", "dispatcher", "streams", "members", "tenant", "quotas", "connection", "tables", "deadlines", "event", "target", "names"},
	"elsewhere":      {"parcel", "quotas", "peers", "connection", "event", "target"},
	"cluster":        {"turns", "elsewhere", "presence", "typing", "hub", "streams", "members", "directory", "quotas", "peers", "connection", "counts", "filter", "event", "target"},
	"limits":         {"quotas", "tables", "target", "names"},
	"quotas":         {"target"},
	"tables":         {},
	"turns":          {},
	"allowance":      {"quotas", "caller", "target"},
	"published":      {},
	"keys":           {"reread", "published"},
	"origins":        {},
	"caller":         {"connection", "faults", "target"},
	"proofs":         {"turns"},
	"auth":           {"caller", "reread", "keys", "published", "proofs", "origins", "counts", "target", "names"},
	"pages":          {"auth", "origins"},
	"answers":        {"allowance", "overload", "returns", "auth", "limits", "typing", "hub", "members", "quotas", "rooms", "connection", "store", "faults", "event", "target"},
	"metrics":        {"quotas", "overload", "answers", "auth", "limits", "presence", "typing", "hub", "members", "tenants", "complaints", "counts", "store"},
	"rows":           {"allowance", "presence", "target"},
	"ndjson":         {"allowance", "answers", "auth", "hub", "faults"},
	"doctor":         {"answers", "caller", "limits", "hub", "streams", "directory", "frames", "counts", "faults", "event", "target"},
	"requests":       {"turns", "allowance", "answers", "caller", "faults", "target", "names"},
	"administration": {"quotas", "allowance", "rows", "requests", "answers", "caller", "cluster", "presence", "hub", "members", "tenants", "connection", "counts", "store", "faults", "event", "target", "names"},
	"subscribing":    {"quotas", "allowance", "rows", "requests", "answers", "caller", "limits", "cluster", "presence", "hub", "streams", "tenants", "directory", "frames", "connection", "counts", "faults", "filter", "target", "names"},
	"publishing":     {"quotas", "allowance", "rows", "overload", "requests", "ndjson", "metrics", "answers", "auth", "caller", "limits", "hub", "streams", "validate", "faults", "event", "target"},
	"files":          {"answers"},
	"handlers":       {"allowance", "overload", "publishing", "subscribing", "administration", "requests", "doctor", "metrics", "answers", "files", "pages", "auth", "caller", "limits", "cluster", "quotas", "hub", "directory", "profiles", "faults", "target"},
	"settings":       {"origins", "auth", "presence", "names"},
	"main":           {"overload", "quotas", "ids", "usage", "settings", "handlers", "rows", "origins", "auth", "limits", "cluster", "presence", "hub", "streams", "members", "directory", "membership", "nats", "peers", "rooms", "memory", "shelf", "store", "certificate", "reread", "doors"},
}

// rooms is which of our packages a file may import.
var rooms = map[string][]string{
	"target":         {"strictjson"},
	"event":          {"strictjson"},
	"faults":         {"strictjson"},
	"validate":       {"strictjson"},
	"ids":            {"largest", "quota"},
	"natslog":        {"journal"},
	"natsrooms":      {"journal"},
	"natspeers":      {"peers"},
	"nats":           {"journal", "peers"},
	"membership":     {"quota", "strictjson"},
	"connection":     {"sse"},
	"parcel":         {"sse"},
	"frames":         {"sse"},
	"tenant":         {"sse"},
	"resume":         {"sse"},
	"streams":        {"quota", "sse"},
	"dispatcher":     {"sse"},
	"hub":            {"sse"},
	"metrics":        {"lobby", "sse"},
	"doctor":         {"doctor", "sse"},
	"limits":         {"quota"},
	"proofs":         {"quota"},
	"requests":       {"quota", "strictjson"},
	"administration": {"strictjson"},
	"subscribing":    {"lobby", "reserve", "sse", "strictjson"},
	"handlers":       {"lobby", "reserve", "sse"},
	"files":          {"lobby"},
	"caller":         {"lobby"},
	"answers":        {"lobby"},
	"main":           {"doctor", "lobby", "plan", "reserve", "sse"},
	"settings":       {"lobby", "plan"},
	"quotas":         {"plan", "quota"},
	"turns":          {"quota"},
	"auth":           {"lobby"},
	"allowance":      {"quota"},
	"shelf":          {"largest", "quota"},
}

// exported is where the compiler's own account of each imported package lies.
func exported(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return files
}

func TestArrows(t *testing.T) {
	fset := token.NewFileSet()
	var files []*ast.File
	names, _ := filepath.Glob("*.go")
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		room := strings.TrimSuffix(name, ".go")
		for _, spec := range file.Imports {
			if ours, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), "realtimehub/internal/"); ok && !slices.Contains(rooms[room], ours) {
				t.Errorf("%s imports internal/%s", name, ours)
			}
		}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	exports := exported(t)
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	pkg, err := config.Check("realtimehub", fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	room := func(pos token.Pos) string {
		return strings.TrimSuffix(filepath.Base(fset.Position(pos).Filename), ".go")
	}
	seen := map[[2]string]bool{}
	for ident, object := range info.Uses {
		from, to := room(ident.Pos()), ""
		if object.Pkg() == pkg {
			to = room(object.Pos())
		}
		if to == "" || to == from || seen[[2]string{from, to}] {
			continue
		}
		seen[[2]string{from, to}] = true
		if !slices.Contains(arrows[from], to) {
			t.Errorf("%s: %s knows %s (%s)", fset.Position(ident.Pos()), from, to, ident.Name)
		}
	}
	for from, tos := range arrows {
		if _, err := os.Stat(from + ".go"); err != nil {
			t.Errorf("%s.go is in the table only", from)
		}
		for _, to := range tos {
			if slices.Contains(arrows[to], from) {
				t.Errorf("%s and %s know each other", from, to)
			}
			if !seen[[2]string{from, to}] {
				t.Errorf("%s does not know %s any more", from, to)
			}
		}
	}
}

// The page that newcomers read has each file's arrows, as they are. All point down, so
// that none come back by a longer way either.
func TestInside(t *testing.T) {
	page, err := os.ReadFile("docs/inside.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```\n")
	block, _, _ = strings.Cut(block, "```\n")
	vocabulary := []string{"validate", "faults", "filter", "event", "target", "names"}
	told := map[string]bool{}
	for line := range strings.Lines(block) {
		line, list, _ := strings.Cut(strings.TrimSpace(line), "→ ")
		from := strings.Fields(line)[0]
		told[from] = true
		var want []string
		for _, to := range arrows[from] {
			if told[to] {
				t.Errorf("docs/inside.md: %s knows %s, which is above it", from, to)
			}
			if slices.Contains(vocabulary, to) && !slices.Contains(vocabulary, from) {
				to = "vocabulary"
			}
			if !slices.Contains(want, to) {
				want = append(want, to)
			}
		}
		if got := strings.Join(want, ", "); got != list {
			t.Errorf("docs/inside.md: %s → %s\nit knows %s", from, list, got)
		}
	}
	for name := range arrows {
		if !told[name] {
			t.Errorf("docs/inside.md lacks %s", name)
		}
	}
}
