package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"realtimehub/internal/outbox"
)

var errRecord = errors.New("an item of the outbox cannot be read")

// encode makes an item's message: its type, its time and its data.
func encode(tenant string, place uint64, d *outbox.Draft) ([]byte, error) {
	item, err := d.Place(tenant, place)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %s %s", item.Type, item.At.Format(time.RFC3339Nano), item.Data), nil
}

// decode is encode's item.
func decode(tenant string, place uint64, data []byte) (outbox.Item, error) {
	kind, rest, _ := bytes.Cut(data, []byte(" "))
	text, data, found := bytes.Cut(rest, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(text))
	if !found || err != nil {
		return outbox.Item{}, fmt.Errorf("%w: place %d", errRecord, place)
	}
	return outbox.Item{Tenant: tenant, Seq: place, Type: outbox.Type(kind), At: at, Data: data}, nil
}
