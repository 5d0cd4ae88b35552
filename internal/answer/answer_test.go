package answer

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/plan"
)

// memory is what a call may use of so many bytes for all calls.
func memory(t testing.TB, calls int64) *allowance.Call {
	call := allowance.New(plan.Memory{Calls: calls}).Answer(event.TenantProfile{Tenant: "acme"})
	t.Cleanup(call.Close)
	return call
}

// pieces keeps what is written, by write; after so many writes nobody reads any more.
type pieces struct {
	*httptest.ResponseRecorder
	sizes []int
	most  int
}

var errLeft = errors.New("the client has left")

func (p *pieces) Write(b []byte) (int, error) {
	if len(p.sizes) == p.most {
		return 0, errLeft
	}
	p.sizes = append(p.sizes, len(b))
	return p.ResponseRecorder.Write(b)
}

func text(s string) func([]byte) []byte { return func(b []byte) []byte { return append(b, s...) } }

func noTurn(int) (func(), error) { return func() {}, nil }

func people(n int) []event.Profile {
	list := make([]event.Profile, n)
	for i := range list {
		list[i] = event.Profile{Type: "user", ID: strings.Repeat("x", 100)}
	}
	return list
}

func TestJSON(t *testing.T) {
	is := is.New(t)
	w := httptest.NewRecorder()
	is.NoErr(JSON(w, http.StatusAccepted, map[string]string{"status": "ok"}))
	is.Equal(w.Code, http.StatusAccepted)
	is.Equal(w.Header().Get("Content-Type"), "application/json")
	is.Equal(w.Header().Get("Cache-Control"), "no-store")
	is.Equal(w.Body.String(), `{"status":"ok"}`+"\n")
}

func TestNoContent(t *testing.T) {
	is := is.New(t)
	w := httptest.NewRecorder()
	is.NoErr(NoContent(w))
	is.Equal(w.Code, http.StatusNoContent)
	is.Equal(w.Body.Len(), 0)
}

// Rows are an object with one list, and with other members after it.
func TestRows(t *testing.T) {
	for want, write := range map[string]func(*Rows){
		`{"rows":[]}`:      func(r *Rows) { r.End() },
		`{"rows":[1,"b"]}`: func(r *Rows) { r.Add(text("1")); r.Value("b"); r.End() },
		`{"rows":[1],"count":2,"next":"x"}`: func(r *Rows) {
			r.Put(text("1"))
			r.End("count", 2, "next", "x")
		},
	} {
		is := is.New(t)
		w := httptest.NewRecorder()
		out, err := NewRows(w, http.StatusOK, memory(t, 1<<30), "rows")
		is.NoErr(err)
		write(out)
		is.Equal(w.Body.String(), want+"\n")
		is.Equal(w.Header().Get("Content-Type"), "application/json")
		is.Equal(w.Header().Get("Cache-Control"), "no-store")
	}
}

// A long answer is written piece by piece, and each is let go of.
func TestALongAnswerIsInPieces(t *testing.T) {
	is := is.New(t)
	w := &pieces{ResponseRecorder: httptest.NewRecorder(), most: 1000}
	list := people(5000)
	is.NoErr(ProfileRows(w, memory(t, 1<<30), "members", list, noTurn))
	var got struct{ Members []event.Profile }
	is.NoErr(json.Unmarshal(w.Body.Bytes(), &got))
	is.Equal(got.Members, list)
	is.True(len(w.sizes) > 20)
	for _, size := range w.sizes {
		is.True(size < 2*rowsPiece)
	}
}

// Nothing more is made for a reader that has left, and no turn taken.
func TestAReaderThatLeaves(t *testing.T) {
	is := is.New(t)
	w := &pieces{ResponseRecorder: httptest.NewRecorder(), most: 1}
	turns := 0
	is.NoErr(ProfileRows(w, memory(t, 1<<30), "members", people(5000), func(int) (func(), error) {
		turns++
		return func() {}, nil
	}))
	is.True(turns < 10)
	is.Equal(len(w.sizes), 1)
	out, err := NewRows(&pieces{ResponseRecorder: httptest.NewRecorder()}, http.StatusOK, memory(t, 1<<30), "rows")
	is.NoErr(err)
	is.True(!out.Add(text(strings.Repeat("1", rowsPiece))))
}

// A turn that is not had is an error while nothing is sent; later the answer just ends.
func TestATurnThatIsNotHad(t *testing.T) {
	for after, want := range map[int]error{0: errLeft, 4: nil} {
		is := is.New(t)
		turns := 0
		err := ProfileRows(httptest.NewRecorder(), memory(t, 1<<30), "members", people(5000), func(int) (func(), error) {
			if turns++; turns > after {
				return nil, errLeft
			}
			return func() {}, nil
		})
		is.Equal(err, want)
	}
}

// An answer and a list need room in the caller's allowance, which they give back.
func TestAnswersAreCounted(t *testing.T) {
	is := is.New(t)
	_, err := NewRows(httptest.NewRecorder(), http.StatusOK, memory(t, RowsBytes/2), "rows")
	is.Equal(err, allowance.ErrAnswers)
	pools := allowance.New(plan.Memory{Calls: 1 << 20})
	l := NewList(t.Context(), "acme", pools.Answer(event.TenantProfile{Tenant: "acme"}))
	_, err = l.Begin(1 << 20)
	is.Equal(err, allowance.ErrAnswers)
	over, err := l.Begin(100)
	is.NoErr(err)
	over()
	is.True(pools.Answers.Total() > 0)
	l.Close()
	is.Equal(pools.Answers.Total(), int64(0))
}
