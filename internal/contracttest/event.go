package contracttest

import (
	"errors"
	"fmt"
)

// Event holds an event of a stream against its message; name is "message" for one
// without, id empty for one without. An event's message is the one of its name, else
// of its payload's type, else it is one that was published.
func (c *Contract) Event(name, id, data string) error {
	return c.judged.once(look{text: name + "\n" + id + "\n" + data}, func() error { return c.event(name, id, data) })
}

func (c *Contract) event(name, id, data string) error {
	payload, err := decode([]byte(data))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fields := map[string]any{}
	if id != "" {
		fields["id"] = id
	}
	if name != "message" {
		fields["event"] = name
	}
	envelope, _ := payload.(map[string]any)
	kind, ok := envelope["type"].(string)
	is := name
	if ok {
		if is = kind; name != "message" && name != kind {
			return fmt.Errorf("%s: its payload says %s", name, kind)
		}
	}
	m := c.messages[is]
	if m == nil || is == "stored" || is == "ephemeral" {
		target, _ := envelope["target"].(map[string]any)
		is = "stored"
		if envelope["ephemeral"] == true || target["kind"] == "connection" {
			is = "ephemeral"
		}
		m = c.messages[is]
	}
	err = errors.Join(m.headers.Validate(fields), m.payload.Validate(payload))
	// What a schema cannot say: an id of the hub's own events is their cursor.
	if cursor, there := envelope["cursor"]; err == nil && there && id != "" && id != cursor {
		err = fmt.Errorf("the id is %s, the cursor %v", id, cursor)
	}
	if err != nil {
		return fmt.Errorf("event %s %s %.300s: %w", name, id, data, err)
	}
	c.see(is)
	return nil
}
