package outbox

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"realtimehub/internal/event"
)

// Type is what an item tells.
type Type string

// All types.
const (
	TypeUndelivered          Type = "event.undelivered"
	TypePresence             Type = "presence.changed"
	TypeConnected            Type = "connection.opened"
	TypeDisconnected         Type = "connection.closed"
	TypeConversationOccupied Type = "conversation.occupied"
	TypeConversationVacated  Type = "conversation.vacated"
	TypeGroupOccupied        Type = "group.occupied"
	TypeGroupVacated         Type = "group.vacated"
)

// Types are all there are.
func Types() []Type {
	return []Type{
		TypeUndelivered, TypePresence, TypeConnected, TypeDisconnected,
		TypeConversationOccupied, TypeConversationVacated, TypeGroupOccupied, TypeGroupVacated,
	}
}

// IsState says that an item of the type tells how somebody or something is, and not what has
// happened: of those about the same one the latest counts.
func (t Type) IsState() bool {
	switch t {
	case TypePresence, TypeConversationOccupied, TypeConversationVacated, TypeGroupOccupied, TypeGroupVacated:
		return true
	}
	return false
}

// Item is one thing that services are told.
type Item struct {
	Tenant string
	Seq    uint64 // its place
	Type   Type
	At     time.Time
	Data   json.RawMessage // an object, which begins with tenantId, seq and, of a state, version
}

// AppendJSON appends the item as services see it, pulled or sent.
func (i *Item) AppendJSON(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, i.Type...)
	b = append(b, `","timestamp":"`...)
	b = event.AppendTime(b, i.At)
	b = append(b, `","data":`...)
	b = append(b, i.Data...)
	return append(b, '}')
}

// Draft is an item that has no place yet.
type Draft struct {
	Type Type
	At   time.Time
	Data json.RawMessage // a compact object, without tenantId, seq and version
}

var errNoObject = errors.New("an item's data is no object")

// Place makes an item of a draft. The version of a state is its place: that is one order, however
// many processes tell of the same one, and whatever their clocks say.
func (d *Draft) Place(tenant string, seq uint64) (Item, error) {
	end := len(d.Data) - 1
	if end < 1 || d.Data[0] != '{' || d.Data[end] != '}' {
		return Item{}, errNoObject
	}
	data := make([]byte, 0, len(`{"tenantId":"","seq":18446744073709551615,"version":18446744073709551615,`)+len(tenant)+end)
	data = append(data, `{"tenantId":"`...)
	data = append(data, tenant...) // its rule lets nothing through that JSON escapes
	data = append(data, `","seq":`...)
	data = strconv.AppendUint(data, seq, 10)
	if d.Type.IsState() {
		data = strconv.AppendUint(append(data, `,"version":`...), seq, 10)
	}
	if end > 1 {
		data = append(data, ',')
	}
	return Item{Tenant: tenant, Seq: seq, Type: d.Type, At: d.At, Data: append(data, d.Data[1:]...)}, nil
}
