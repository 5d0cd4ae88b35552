package access

import (
	"net/http"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
)

// What a connection costs that carries calls, and each call beside others on one, in bytes.
const (
	SocketBytes = 16 << 10
	CallBytes   = 16 << 10
)

// Vouch takes a request whose credential is good out of the lobby, and its connection, if the
// caller's part of the state has room for them; else they stay where they are. The call, and the
// head bytes of its request, are paid for until over is called. A stream pays for itself. In open
// mode nothing was proven.
func (c *Caller) Vouch(r *http.Request, pools *allowance.Pools, head int64, stream bool) (over func()) {
	if !c.Proven() {
		return nothing
	}
	part := part{pools: pools, holder: c.Holder(r)}
	if lobby.IsStranger(r) {
		if !part.Take(SocketBytes) {
			return nothing
		}
		lobby.Prove(r, part, SocketBytes)
	}
	n := CallBytes + head
	if r.ProtoMajor < 2 || stream || !part.Take(n) { // a stream leaves once it is one
		return nothing
	}
	lobby.Leave(r)
	return func() { part.Give(n) }
}

func nothing() {}

// part is a caller's part of the state. It counts against its tenant's as well.
type part struct {
	pools  *allowance.Pools
	holder event.TenantProfile
}

// Take implements lobby.Payer.
func (p part) Take(bytes int64) bool { return p.pools.Keep(p.holder, bytes, true) == nil }

// Give implements lobby.Payer.
func (p part) Give(bytes int64) { p.pools.Drop(p.holder, bytes) }
