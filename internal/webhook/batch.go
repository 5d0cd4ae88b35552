package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
)

// Bounds of a batch.
const (
	batchItems = 100
	batchBytes = 128 << 10 // of data; one item may have more
)

// batch is items of one tenant that are sent together. The same items are always the same batch.
type batch []outbox.Item

func (b batch) last() uint64 { return b[len(b)-1].Seq }

// id is the message's, by which its receiver knows it again.
func (b batch) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", b[0].Tenant, b[0].Seq, b.last()))
	return "msg_" + hex.EncodeToString(sum[:16])
}

// body is what is sent.
func (b batch) body() []byte {
	bytes := 128
	for i := range b {
		bytes += 128 + len(b[i].Data)
	}
	body := append(make([]byte, 0, bytes), `{"type":"batch","timestamp":"`...)
	body = event.AppendTime(body, b[len(b)-1].At)
	body = append(body, `","data":{"items":[`...)
	for i := range b {
		if i > 0 {
			body = append(body, ',')
		}
		body = b[i].AppendJSON(body)
	}
	return append(body, "]}}"...)
}
