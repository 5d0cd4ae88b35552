package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/web"
)

// What people read in place of the contract's words has a sentence for each of them, and for no other.
func TestContractWords(t *testing.T) {
	is := is.New(t)
	schemas := readDocument(t).Components.Schemas
	var why, states []string
	for _, word := range schemas["Why"].Value.Enum {
		why = append(why, word.(string))
	}
	for _, word := range schemas["DeliveryReceipt"].Value.Properties["state"].Value.Enum {
		states = append(states, word.(string))
	}
	asyncapi, err := web.Files.ReadFile("asyncapi.yaml")
	is.NoErr(err)
	gaps := strings.Split(regexp.MustCompile(`reason: \{type: string, enum: \[(expired, unknown[^]]*)`).FindStringSubmatch(string(asyncapi))[1], ", ")
	for _, table := range []struct {
		file, opening string
		words         []string
	}{
		{"web/why.js", "export const WHY = {", why},
		{"web/why.js", "export const STATES = {", states},
		{"web/log.js", "export const GAPS = {", gaps},
		{"internal/inquiry/inquiry.go", "var reasons = map[string]string{", why},
		{"internal/inquiry/inquiry.go", "var states = map[string]string{", states},
	} {
		text, err := os.ReadFile(table.file)
		is.NoErr(err)
		_, rest, found := strings.Cut(string(text), table.opening+"\n")
		is.True(found) // table.opening
		rows, _, _ := strings.Cut(rest, "\n}")
		var words []string
		for _, row := range regexp.MustCompile(`(?m)^\s+"?(\w+)"?:`).FindAllStringSubmatch(rows, -1) {
			words = append(words, row[1])
		}
		slices.Sort(words)
		is.Equal(words, slices.Sorted(slices.Values(table.words))) // table.file, table.opening
	}
}
