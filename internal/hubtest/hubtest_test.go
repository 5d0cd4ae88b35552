package hubtest

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestMain(m *testing.M) { Main(m) }

// A program is started with its settings, is talked to, and ends well.
func TestProgram(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			is := is.New(t)
			p := Start(t, "REALTIME_LOG_FORMAT="+format, "REALTIME_PRESENCE_AUDIENCE=none")
			s := p.Open(t, "tenant=acme&profile=me")
			p.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(p.Payloads(t, "acme", s), []string{"1"})
			is.Equal(p.Metric(t, "realtime_streams_open"), 1.0)
			s.Close()
			is.Equal(p.Stop().ExitCode(), 0)
			is.True(strings.Contains(p.Logs.String(), "listening"))
		})
	}
}

func TestReadMetrics(t *testing.T) {
	is := is.New(t)
	got, err := ReadMetrics(strings.NewReader("# HELP a b\na 1\nb{c=\"d e\"} 2.5\n"))
	is.NoErr(err)
	is.Equal(got, Metrics{"a": 1, `b{c="d e"}`: 2.5})
	_, err = ReadMetrics(strings.NewReader("a b\n"))
	is.True(err != nil)
}
