package main

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// Who has set a folder alone is not told of a broker: what keeps histories is the store, in all
// that the program says.
func TestWordsOfTheStore(t *testing.T) {
	is := is.New(t)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.HasPrefix(path, "test") || strings.Contains(path, "natstest") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING && (strings.Contains(text.Value, "the broker") || strings.HasPrefix(text.Value, `"broker: `)) {
				t.Errorf("%s says %s", path, text.Value)
			}
			return true
		})
		return nil
	})
	is.NoErr(err)
}

// What is set for NATS alone does not hold up a hub with a folder, which is warned of it.
func TestCredentialsOfNATSBesideAFolder(t *testing.T) {
	is := is.New(t)
	var logs syncBuffer
	ctx, stop := context.WithCancel(t.Context())
	environ := []string{"REALTIME_DRAIN=0", "REALTIME_ADDR=127.0.0.1:0", "REALTIME_DATA=" + t.TempDir(), "REALTIME_NATS_CREDS=" + filepath.Join(t.TempDir(), "missing")}
	is.NoErr(run(ctx, environ, &logs, func(net.Addr) { stop() }))
	is.True(strings.Contains(logs.String(), "REALTIME_NATS_CREDS needs REALTIME_NATS_URL"))
}
