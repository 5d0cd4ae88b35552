// Package tcp is the hub's TCP beneath net/http: sockets that are listened on, used for less, and
// taken away from net/http, after which nothing waits for them. It knows nothing of what goes
// over them but TLS, whose sessions stay crypto/tls's.
//
// [Listen] makes a listener, [Secure] is around that of a server with TLS, and [Quick] has
// net/http's calls cost less. With [ConnContext] a [Poller] takes the [Socket] of a request,
// where [CanTake] says so, and tells when there is something to read or room to write.
package tcp
