package access

import (
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/quota"
)

// What a connection costs that carries calls, and each call beside others on one, in bytes.
const (
	SocketBytes = 16 << 10
	CallBytes   = 16 << 10
)

// Vouch takes a request whose credential is good out of the lobby, and its connection. The
// caller pays for both from a pool, for the call and the head bytes of its request until over
// is called; as long as it can, or they stay where they are. A stream pays for itself. In open
// mode nothing was proven.
func (c *Caller) Vouch(r *http.Request, pool *quota.Pool[event.TenantProfile], head int64, stream bool) (over func()) {
	if !c.Proven() {
		return nothing
	}
	holder := c.Holder(r)
	if lobby.IsStranger(r) {
		if !pool.Take(holder, SocketBytes) {
			return nothing
		}
		lobby.Prove(r, share{pool, holder}, SocketBytes)
	}
	n := CallBytes + head
	if r.ProtoMajor < 2 || stream || !pool.Take(holder, n) { // a stream leaves once it is one
		return nothing
	}
	lobby.Leave(r)
	return func() { pool.Give(holder, n) }
}

func nothing() {}

// share is a caller's of a pool.
type share struct {
	pool   *quota.Pool[event.TenantProfile]
	holder event.TenantProfile
}

// Take implements lobby.Payer.
func (s share) Take(bytes int64) bool { return s.pool.Take(s.holder, bytes) }

// Give implements lobby.Payer.
func (s share) Give(bytes int64) { s.pool.Give(s.holder, bytes) }
