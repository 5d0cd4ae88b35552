package engine

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// sealer writes the records of a client of TLS 1.3 that crypto/tls would not write.
type sealer struct {
	to   io.Writer
	aead cipher.AEAD
	iv   []byte
	sent uint64 // records
}

// sealerOf goes on after so many records of a client that has TLS_AES_128_GCM_SHA256, of which crypto/tls
// has told the keys (RFC 8446, section 7.3).
func sealerOf(t *testing.T, to io.Writer, keys string, sent uint64) *sealer {
	t.Helper()
	is := is.New(t)
	_, line, _ := strings.Cut(keys, "CLIENT_TRAFFIC_SECRET_0 ")
	_, text, _ := strings.Cut(line, " ")
	text, _, _ = strings.Cut(text, "\n")
	secret, err := hex.DecodeString(text)
	is.NoErr(err)
	expand := func(label string, size int) []byte {
		label = "tls13 " + label
		info := fmt.Sprintf("\x00%c%c%s\x00", size, len(label), label)
		key, err := hkdf.Expand(sha256.New, secret, info, size)
		is.NoErr(err)
		return key
	}
	block, err := aes.NewCipher(expand("key", 16))
	is.NoErr(err)
	aead, err := cipher.NewGCM(block)
	is.NoErr(err)
	return &sealer{to: to, aead: aead, iv: expand("iv", aead.NonceSize()), sent: sent}
}

// write writes a record (RFC 8446, section 5.2).
func (s *sealer) write(contentType byte, content []byte) error {
	nonce := bytes.Clone(s.iv)
	place := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(place, binary.BigEndian.Uint64(place)^s.sent)
	s.sent++
	content = append(bytes.Clone(content), contentType)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(content)+s.aead.Overhead()))
	_, err := s.to.Write(s.aead.Seal(head, nonce, content, head))
	return err
}

// A client may begin a message of 256 KiB to the session itself, a Certificate, and never end it. It is cut
// once it has sent more than a whole record of what is for no stream.
func TestASessionKeepsNoLongMessage(t *testing.T) {
	for name, request := range map[string]string{"stream": get, "socket": upgrade} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := openHouseWith(t, Config{}, newCertificate(t))
			defer h.stop()
			tcp, err := net.Dial("tcp", h.addr)
			is.NoErr(err)
			defer tcp.Close()
			var keys bytes.Buffer
			session := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &keys})
			_, err = io.WriteString(session, strings.ReplaceAll(request, "NAME", "a"))
			is.NoErr(err)
			if suite := session.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
				if os.Getenv("CI") != "" {
					t.Fatal("this machine prefers ", tls.CipherSuiteName(suite))
				}
				t.Skip("this machine prefers ", tls.CipherSuiteName(suite))
			}
			newVisitor(tcp, session).head(t)
			g := h.guest(t, "a")
			s := sealerOf(t, tcp, keys.String(), 1)

			const handshake, certificate, data, maxRecord = 22, 11, 23, 16 << 10
			if name == "socket" { // whole records that are for the stream are no matter
				for range 5 {
					is.NoErr(s.write(data, make([]byte, maxRecord)))
				}
			}
			is.NoErr(s.write(handshake, append([]byte{certificate, 3, 0xff, 0xff}, make([]byte, maxRecord-4)...)))
			s.write(handshake, make([]byte, maxRecord)) // the hub may have cut it by then
			is.Equal(g.wait(t), ErrNoisy)
			h.close(t)
		})
	}
}
