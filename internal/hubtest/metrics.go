package hubtest

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Metrics is an answer of GET /metrics: values by name and labels, as written there.
type Metrics map[string]float64

// ReadMetrics reads the text of GET /metrics.
func ReadMetrics(text io.Reader) (Metrics, error) {
	all := Metrics{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		i := strings.LastIndexByte(lines.Text(), ' ')
		if i < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		value, err := strconv.ParseFloat(lines.Text()[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		all[lines.Text()[:i]] = value
	}
	return all, lines.Err()
}

// Scrape asks for GET /metrics on a connection of its own; headers are names and values.
func (h *Hub) Scrape(t testing.TB, headers ...string) Metrics {
	t.Helper()
	return ScrapeBy(t, &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}, h.URL, headers...)
}

// ScrapeBy asks for GET /metrics with a client.
func ScrapeBy(t testing.TB, client *http.Client, url string, headers ...string) Metrics {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	setHeaders(req, headers)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatal("GET /metrics: ", res.Status)
	}
	all, err := ReadMetrics(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Metric is one value of GET /metrics, which must be there.
func (h *Hub) Metric(t testing.TB, name string) float64 {
	t.Helper()
	all := h.Scrape(t)
	value, ok := all[name]
	if !ok {
		t.Fatalf("no metric %s among %v", name, len(all))
	}
	return value
}
