package hubtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
)

// Root is the folder of the module, wherever in it a test runs.
var Root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			panic("hubtest: there is no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
})

// Path is where a file of the repository is, "docs/recipes.md" for example.
func Path(name string) string { return filepath.Join(Root(), filepath.FromSlash(name)) }

// ReadFile reads a file of the repository.
func ReadFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Block is a fenced block of a page: in a language, or a file with a name.
type Block struct{ File, Language, Text string }

// FencedBlock finds the fenced blocks of a page.
var FencedBlock = regexp.MustCompile("(?ms)^(?:<!-- file: (\\S+) -->\n)?```(\\w*)\n(.*?)^```$")

// Blocks are the fenced blocks of a page of the repository, in order.
func Blocks(t testing.TB, page string) (blocks []Block) {
	t.Helper()
	for _, found := range FencedBlock.FindAllStringSubmatch(ReadFile(t, page), -1) {
		blocks = append(blocks, Block{found[1], found[2], found[3]})
	}
	return blocks
}

// ShellBlocks are what a page has its reader type, in order.
func ShellBlocks(t testing.TB, page string) (scripts []string) {
	t.Helper()
	for _, b := range Blocks(t, page) {
		if b.Language == "sh" {
			scripts = append(scripts, b.Text)
		}
	}
	return scripts
}

// WriteFiles puts the files that a page has its reader save into dir.
func WriteFiles(t testing.TB, page, dir string) (names []string) {
	t.Helper()
	for _, b := range Blocks(t, page) {
		if b.File == "" {
			continue
		}
		names = append(names, b.File)
		if err := os.WriteFile(filepath.Join(dir, b.File), []byte(b.Text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// CI says whether CI runs the tests, where what waits in real time waits for longest.
func CI() bool { return os.Getenv("CI") != "" }

// Lacks skips a test that lacks something, in words; in CI it fails the test.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if CI() {
		t.Fatal(what + ", and CI needs it")
	}
	t.Skip(what + ": the test is skipped")
}

// Needs is Lacks for a program that is not there.
func Needs(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Lacks(t, "there is no "+program)
	}
}
