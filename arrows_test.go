package main

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// arrows is the architecture: which file may know which. Nothing knows main, and
// arrows run one way.
var arrows = map[string][]string{
	"validate":    {},
	"deadlines":   {},
	"profiles":    {},
	"certificate": {},
	"store":       {"validate"},
	"shelf":       {"store", "validate"},
	"memory":      {"shelf", "store", "validate"},
	"rooms":       {"store", "validate"},
	"peers":       {"rooms", "store", "validate"},
	"counts":      {"peers", "validate"},
	"natslog":     {"shelf", "store", "validate"},
	"natsrooms":   {"natslog", "peers", "rooms", "store", "validate"},
	"natspeers":   {"peers", "validate"},
	"nats":        {"natslog", "natsrooms", "natspeers", "peers", "shelf", "rooms", "store"},
	"membership":  {"rooms", "validate"},
	"tenant":      {"counts", "rooms", "store", "validate", "deadlines"},
	"resume":      {"tenant", "counts", "rooms", "store", "validate"},
	"expiry":      {"tenant", "deadlines"},
	"tenants":     {"tenant", "rooms", "store", "validate"},
	"members":     {"tenants", "tenant", "rooms", "store", "validate"},
	"hub":         {"members", "tenants", "expiry", "resume", "tenant", "counts", "peers", "rooms", "store", "validate"},
	"presence":    {"hub", "members", "tenant", "store", "validate", "deadlines"},
	"elsewhere":   {"tenant", "peers", "validate"},
	"cluster":     {"elsewhere", "presence", "hub", "members", "tenant", "peers", "validate"},
	"limits":      {"validate"},
	"auth":        {"tenant", "counts", "validate"},
	"answers":     {"auth", "limits", "presence", "hub", "members", "rooms", "tenant", "store", "validate"},
	"metrics":     {"answers", "auth", "limits", "presence", "hub", "counts", "store", "validate"},
	"ndjson":      {"answers", "auth", "hub", "tenant", "store", "validate"},
	"doctor":      {"answers", "hub", "peers", "validate"},
	"handlers":    {"metrics", "profiles", "doctor", "cluster", "members", "tenants", "peers", "ndjson", "answers", "auth", "limits", "presence", "hub", "tenant", "store", "validate"},
	"main":        {"handlers", "members", "cluster", "nats", "peers", "shelf", "rooms", "auth", "limits", "certificate", "membership", "memory", "presence", "hub", "tenant", "store", "validate"},
}

// rooms is which of our packages a file may import.
var rooms = map[string][]string{
	"validate":   {"strictjson"},
	"membership": {"strictjson"},
	"hub":        {"sse"},
	"tenant":     {"sse"},
	"resume":     {"sse"},
	"doctor":     {"doctor", "sse"},
	"handlers":   {"sse", "strictjson"},
	"metrics":    {"sse"},
	"nats":       {"journal", "peers"},
	"natslog":    {"journal"},
	"natsrooms":  {"journal"},
	"natspeers":  {"peers"},
	"main":       {"doctor", "sse"},
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
	config := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
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
		}
	}
}
