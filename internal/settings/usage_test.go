package settings

import (
	"cmp"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

func TestHelpListsEverySetting(t *testing.T) {
	is := is.New(t)
	var out strings.Builder
	PrintHelp(&out, hubtest.ReadFile(t, "README.md"))
	help := out.String()
	for name, standard := range standards() {
		shown := regexp.MustCompile(`(?m)^  ` + name + ` \(` + regexp.QuoteMeta(cmp.Or(standard, "none")) + `\)\n      \S.{8,}$`)
		is.True(shown.MatchString(help)) // a setting, its default and what it means
	}
	for line := range strings.Lines(help) {
		is.True(utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) <= helpWidth)
		is.True(!strings.ContainsAny(line, "`|") && !strings.Contains(line, "](")) // no Markdown
	}
	is.Equal(strings.Count(help, "("), strings.Count(help, ")")) // what is cut off is a thought of its own
}
