package websocket

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/problem"

	"github.com/gobwas/ws"
	"github.com/matryer/is"
)

// framesIn are the frames of b, opcode and payload; each is whole, and not masked.
func framesIn(t *testing.T, b []byte) (list []ws.Frame) {
	t.Helper()
	for from := bytes.NewReader(b); from.Len() > 0; {
		frame, err := ws.ReadFrame(from)
		if err != nil && err != io.EOF || ws.CheckHeader(frame.Header, ws.StateClientSide) != nil || !frame.Header.Fin {
			t.Fatalf("%v in %q", err, b)
		}
		list = append(list, frame)
	}
	return list
}

// Each thing that a stream says is whole frames of JSON, of any length.
func TestEncoding(t *testing.T) {
	is := is.New(t)
	var e Encoding
	for _, size := range []int{2, 85, 86, 87, 125, 126, 65_400, 65_500, 65_536, 100_000} {
		envelope := `"` + strings.Repeat("x", size-2) + `"`
		frames := framesIn(t, e.AppendEvent([]byte{}, "CURSOR", "a.b", []byte(envelope)))
		is.Equal(len(frames), 1)
		is.Equal(frames[0].Header.OpCode, ws.OpText)
		is.Equal(string(frames[0].Payload), `{"id":"CURSOR","event":"a.b","data":`+envelope+`}`)
	}
	ephemeral := framesIn(t, e.AppendEvent(nil, "", "a.b", []byte(`{}`)))
	is.Equal(string(ephemeral[0].Payload), `{"event":"a.b","data":{}}`)
	data := []byte(`{"resume":"fresh"}`)
	ready := framesIn(t, e.AppendWord(nil, "C", "hub.ready", 2*time.Second, data))
	is.Equal(string(ready[0].Payload), `{"id":"C","event":"hub.ready","data":{"resume":"fresh","retryMs":2000}}`)
	is.Equal(string(data), `{"resume":"fresh"}`) // is only lent
	place := framesIn(t, e.AppendPlace(nil, "C"))
	is.Equal(string(place[0].Payload), `{"id":"C"}`)
	is.Equal(place[1].Header.OpCode, ws.OpPing) // the place stands for a heartbeat
	is.Equal(framesIn(t, e.AppendHeartbeat(nil))[0].Header.OpCode, ws.OpPing)
}

// The code of the close frame is the reason's, and its text is the reason.
func TestEncodingOfAnEnd(t *testing.T) {
	is := is.New(t)
	for reason, want := range map[string]ws.StatusCode{
		"drain": 1001, "expired": 4401, "refused": 4403, "slow": 4408, "unacked": 4408, "replaced": 4409, "kicked": 4410,
		"capacity": 4429, "pending": 1013, "unavailable": 1013, "protocol": 1002,
	} {
		frames := framesIn(t, Encoding{}.AppendEnd(nil, reason))
		code, text := ws.ParseCloseFrameData(frames[0].Payload)
		is.Equal(code, want)   // reason
		is.Equal(text, reason) // in words
	}
}

// An answer names its command, or says that it could not.
func TestAnswers(t *testing.T) {
	is := is.New(t)
	is.Equal(string(framesIn(t, answer([]byte("7"), nil))[0].Payload), `{"n":7,"ok":true}`)
	var said struct {
		N       *int
		Problem struct{ Code string }
	}
	is.NoErr(json.Unmarshal(framesIn(t, answer(nil, problem.ErrBodies))[0].Payload, &said))
	is.True(said.N == nil)
	is.Equal(said.Problem.Code, "BodiesBusy")
}
