package request

import (
	"net/url"
	"strconv"

	"realtimehub/internal/problem"
)

// PageLimit is how many rows a query asks for: 100 unless it says so.
func PageLimit(f *problem.Faults, query url.Values) int {
	text := query.Get("limit")
	if text == "" {
		return 100
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > 1000 {
		f.Add(problem.CodeInvalidField, "limit", "must be 1–1000")
	}
	return limit
}
