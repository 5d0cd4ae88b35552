package problem_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/problem"
)

// Whatever an error holds, what is answered is one problem of JSON in which nothing
// was injected.
func FuzzProblem(f *testing.F) {
	f.Add("Code", "field", "detail", 3)
	f.Add("a\"b", "x\r\ny: z", "</script>\x00\xff", -1)
	f.Fuzz(func(t *testing.T, code, field, detail string, index int) {
		for _, err := range []error{
			&problem.FieldError{Code: problem.Code(code), Field: field, Index: index, Detail: detail}, &problem.Problem{Status: 400, Code: code, Detail: detail}, &access.Refusal{Status: 401, Code: code, Detail: detail, After: 0}, &access.RateError{What: detail, After: time.Duration(index)}, fmt.Errorf("%s", detail),
		} {
			w := httptest.NewRecorder()
			problem.Write(w, httptest.NewRequest("GET", "/", nil), slog.New(slog.DiscardHandler), err)
			var body struct {
				Type, Title, Detail, Code string
				Status                    int
			}
			decoder := json.NewDecoder(w.Body)
			if err := decoder.Decode(&body); err != nil || decoder.More() {
				t.Fatalf("%v: %v", err, w.Body)
			}
			if body.Status != w.Code || body.Status < 400 || body.Title == "" {
				t.Fatalf("%+v", body)
			}
			for name, values := range w.Header() {
				for _, value := range values {
					if strings.ContainsAny(name+value, "\r\n\x00") {
						t.Fatalf("%q: %q", name, value)
					}
				}
			}
		}
	})
}
