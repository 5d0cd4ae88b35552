package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/hubtest"
)

var (
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	quotedWords = regexp.MustCompile(`'[^']*'|\S+`)
	namedTest   = regexp.MustCompile("`((?:Test|Fuzz)\\w+)…?`")
)

// testNames are the tests and fuzz targets of packages, as the go command is told them: a
// folder, or one with all below it.
func testNames(t *testing.T, packages ...string) (names []string) {
	t.Helper()
	for _, path := range packages {
		folder, below := strings.CutSuffix(path, "/...")
		err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && path != folder && !below:
				return filepath.SkipDir
			case !strings.HasSuffix(path, "_test.go"):
				return nil
			}
			found, err := testsIn(path)
			names = append(names, found...)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	return names
}

// testsOf are the tests that were found, by file.
var testsOf sync.Map

func testsIn(path string) (names []string, err error) {
	path = filepath.Clean(path)
	if known, ok := testsOf.Load(path); ok {
		return known.([]string), nil
	}
	text, err := os.ReadFile(path)
	for _, found := range testFunc.FindAllSubmatch(text, -1) {
		names = append(names, string(found[1]))
	}
	testsOf.Store(path, names)
	return names, err
}

// Each test that a page has its reader run is in the packages that it names.
func TestDocsCommandsFindTheirTests(t *testing.T) {
	commands := 0
	for _, page := range pages(t, "*.md", "docs/*.md") {
		for line := range strings.Lines(strings.Join(hubtest.ShellBlocks(t, page), "\n")) {
			words := quotedWords.FindAllString(line, -1)
			if len(words) < 2 || words[0] != "go" || words[1] != "test" {
				continue
			}
			commands++
			var patterns, packages []string
			for i, word := range words {
				if i > 0 && (words[i-1] == "-run" || words[i-1] == "-fuzz") && word != "'^$'" {
					patterns = append(patterns, strings.Split(strings.Trim(word, "'"), "|")...)
				} else if word == "." || strings.HasPrefix(word, "./") {
					packages = append(packages, word)
				}
			}
			names := testNames(t, packages...)
			for _, pattern := range patterns {
				pattern, _, _ = strings.Cut(pattern, "/") // behind it is a subtest's
				if !slices.ContainsFunc(names, regexp.MustCompile(pattern).MatchString) {
					t.Errorf("%s: %s finds no %s", page, strings.TrimSpace(line), pattern)
				}
			}
		}
	}
	if commands < 20 {
		t.Errorf("only %d commands were found", commands)
	}
}

// A test that a page names is somewhere; with … behind it, or without, its name may go on.
func TestDocsNameRealTests(t *testing.T) {
	names := testNames(t, "./...")
	for _, page := range pages(t, "*.md", "docs/*.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range namedTest.FindAllStringSubmatch(string(text), -1) {
			if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, found[1]) }) {
				t.Errorf("%s: there is no %s", page, found[1])
			}
		}
	}
}
