package serve

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"time"

	"realtimehub/internal/reserve"
	"realtimehub/internal/tcp"
)

// Times that a client has. Streams and NDJSON bodies lift those of the request and the answer.
const (
	headerTimeout  = 5 * time.Second  // the TLS handshake's too
	RequestTimeout = 30 * time.Second // of a request with its body
	idleTimeout    = 2 * time.Minute
	pingTimeout    = 15 * time.Second // of a silent HTTP/2 connection, then of its answer
)

// NewServer speaks HTTP/1.1 and HTTP/2: over TLS where there is a certificate, else
// in clear text, which HTTP/2 proxies know beforehand (RFC 9113, section 3.3).
func NewServer(handler http.Handler, certificate *Certificate, errorLog *log.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler: handler,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return reserve.ConnContext(tcp.ConnContext(ctx, c), c)
		},
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       RequestTimeout,
		WriteTimeout:      RequestTimeout + AnswerTime,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250, SendPingTimeout: pingTimeout, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout,
		},
		ErrorLog: errorLog,
	}
	if certificate != nil {
		protocols.SetHTTP2(true)
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get}
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return server
}

// AnswerTime is how long an answer, or a piece of a long one, waits to be read.
const AnswerTime = time.Minute
