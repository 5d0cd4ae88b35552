package main

import (
	"regexp"
	"strings"
)

var (
	fenced   = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	fencedAs = regexp.MustCompile("(?ms)^<!-- file: (\\S+) -->\n```\\w+\n(.*?)^```$")
)

// shellBlocks are a page's, in order.
func shellBlocks(page string) (blocks []string) {
	for _, found := range fenced.FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, strings.TrimSpace(found[1]))
	}
	return blocks
}

// namedBlocks are a page's files, by name.
func namedBlocks(page string) map[string]string {
	files := map[string]string{}
	for _, found := range fencedAs.FindAllStringSubmatch(page, -1) {
		files[found[1]] = found[2]
	}
	return files
}
