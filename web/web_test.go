package web

import (
	"os"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// Every file beside the Go files is served, and has a media type.
func TestEveryFileIsServed(t *testing.T) {
	is := is.New(t)
	there, err := os.ReadDir(".")
	is.NoErr(err)
	for _, file := range there {
		if strings.HasSuffix(file.Name(), ".go") {
			continue
		}
		_, err := Files.ReadFile(file.Name())
		is.NoErr(err) // embedded
		_, known := mediaTypes[file.Name()[strings.LastIndexByte(file.Name(), '.'):]]
		is.True(known) // its media type
	}
}
