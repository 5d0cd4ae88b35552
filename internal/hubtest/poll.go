package hubtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/sse"
)

// poller is a client of GET /v1/poll, which asks again at once.
type poller struct {
	hub     *Hub
	query   url.Values
	headers []string
	to      io.Writer
	cursor  string
	begun   bool // hub.ready was written down
}

// polled is an answer; of 204 only the cursor.
type polled struct {
	Events  []json.RawMessage
	Cursors []string // the place after each
	Cursor  string
	Gap     json.RawMessage // of hub.gap; null: there is none
	Hub     struct{ Ready, Expiring, Closing json.RawMessage }
}

func openPolls(h *Hub, t testing.TB, query string, headers []string) *Stream {
	t.Helper()
	values, headers := tokenInHeader(t, query, headers)
	p := &poller{hub: h, query: values, headers: headers, cursor: values.Get("cursor")}
	p.query.Set("client", uuid.NewString())
	return h.follow(t, func(ctx context.Context, s *Stream, to io.Writer) error {
		p.to = to
		defer s.asked.Store(0)
		for {
			s.asked.Store(time.Now().UnixNano())
			a, err := p.ask(ctx)
			s.asked.Store(answering)
			if err == nil {
				err = p.write(ctx, a)
			}
			if err != nil || a.Hub.Closing != nil {
				return err
			}
		}
	})
}

// ask asks with the cursor that is known; the first time without waiting, so that hub.ready comes.
func (p *poller) ask(ctx context.Context) (a polled, err error) {
	p.query.Del("wait")
	if !p.begun {
		p.query.Set("wait", "0")
	}
	return p.askFrom(ctx, p.cursor)
}

func (p *poller) askFrom(ctx context.Context, cursor string) (a polled, err error) {
	p.query.Set("cursor", cursor)
	res, err := p.hub.get(ctx, "/v1/poll?"+p.query.Encode(), p.headers)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
	case res.StatusCode == http.StatusNoContent:
		a.Cursor = res.Header.Get("Cursor")
	case res.StatusCode == http.StatusOK:
		err = json.Unmarshal(text, &a)
	default:
		err = fmt.Errorf("poll: %s %s", res.Status, text)
	}
	return a, err
}

// write writes down an answer. An event that moves no place is not stored.
func (p *poller) write(ctx context.Context, a polled) error {
	var b []byte
	if !p.begun {
		ready, err := p.ready(ctx, a)
		if err != nil {
			return err
		}
		b, p.begun = ready, true
	}
	known := p.cursor
	if string(a.Gap) != "null" && a.Gap != nil {
		var gap struct{ Cursor string }
		if err := json.Unmarshal(a.Gap, &gap); err != nil {
			return err
		}
		known = cmp.Or(gap.Cursor, known)
		b = appendWord(b, gap.Cursor, "hub.gap", a.Gap)
	}
	for i, data := range a.Events {
		var e struct{ Type string }
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		moved := ""
		if a.Cursors[i] != known {
			moved, known = a.Cursors[i], a.Cursors[i]
		}
		b = appendWord(b, moved, e.Type, data)
	}
	if a.Cursor != known {
		b = sse.AppendID(b, a.Cursor)
	}
	p.cursor = a.Cursor
	if a.Hub.Expiring != nil {
		b = appendWord(b, "", "hub.expiring", a.Hub.Expiring)
	}
	if a.Hub.Closing != nil {
		b = appendWord(b, "", "hub.closing", a.Hub.Closing)
	}
	_, err := p.to.Write(b)
	return err
}

// ready writes down hub.ready of the first answer. Who has come back to where nothing was missed
// gets none: the poll for the place now says who it is.
func (p *poller) ready(ctx context.Context, a polled) ([]byte, error) {
	var ready map[string]any
	data := a.Hub.Ready
	if data == nil {
		now, err := p.askFrom(ctx, "")
		if err != nil {
			return nil, err
		}
		data = now.Hub.Ready
	}
	if err := json.Unmarshal(data, &ready); err != nil {
		return nil, err
	}
	if a.Hub.Ready == nil {
		ready["resume"], ready["cursor"] = "complete", p.cursor
		data, _ = json.Marshal(ready)
	}
	p.cursor = cmp.Or(p.cursor, a.Cursor)
	cursor, _ := ready["cursor"].(string)
	if ready["resume"] == "partial" {
		cursor = ""
	}
	return appendWord(nil, cursor, "hub.ready", data), nil
}
