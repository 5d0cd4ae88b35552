package event

import (
	"reflect"
	"testing"
)

// What is read of a stored event is written and read again as it was.
func FuzzDecodeStored(f *testing.F) {
	for _, s := range []string{
		`{"id":"a","tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"profiles","profiles":[{"type":"user","id":"1"},"user:1","2"],"exclude":{"profiles":["x"],"connectionIds":["x","01a20b6b-b9ee-789c-bf01-260aa0b28d5c"]}},"timestamp":"2026-11-27T23:00:00.000Z","correlationId":"c","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","ephemeral":true}`,
		`{"target":{"kind":"CONVERSATION","conversationId":"r"},"payload":"","ephemeral":null,"id":""}`,
		`{"target":{"kind":"group","groupId":5,"connectionId":"x"},"payload":null}`, `{"x":1}`, `{"target":[]}`, `{"target":""}`, `{"timestamp":"x","ephemeral":"x"}`, `{"target":{"exclude":"","profiles":""}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 20000 {
			return
		}
		e, err := DecodeStored(body)
		if err != nil {
			return
		}
		if e.Payload == nil {
			e.Payload = []byte("1") // an event without one is not stored
		}
		e.Timestamp = e.Timestamp.UTC()
		again, err := DecodeStored(e.AppendWhole(nil))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		e.Target.ConversationID, e.Target.GroupID = again.Target.ConversationID, again.Target.GroupID // of another kind they are not written
		if e.Timestamp.Year() > 0 && e.Timestamp.Year() < 10000 && !reflect.DeepEqual(e, again) {
			t.Fatalf("%s: %+v, %+v", body, e, again)
		}
	})
}
