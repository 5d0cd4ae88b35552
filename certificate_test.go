package main

import (
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/serve"
)

// That files could not be read once does not mean that they cannot be: a full table of
// descriptors leaves no trace on them.
func TestCertificateIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs syncBuffer
		folder := t.TempDir()
		cert, key := writeCertificate(t, folder, "first")
		c, err := serve.LoadCertificate(cert, key, slog.New(slog.NewTextHandler(&logs, nil)))
		is.NoErr(err)
		name := func() string {
			time.Sleep(time.Second) // files are looked at once in a second
			pair, err := c.Get(nil)
			is.NoErr(err)
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			is.NoErr(err)
			return leaf.Subject.CommonName
		}
		writeCertificate(t, folder, "second and longer")
		good, err := os.ReadFile(key)
		is.NoErr(err)
		at := time.Now().Add(-time.Hour)
		put := func(text []byte) {
			is.NoErr(os.WriteFile(key, text, 0o600))
			is.NoErr(os.Chtimes(key, at, at)) // it looks the same all the time
		}
		put([]byte(strings.Repeat("x", len(good))))
		for range 3 {
			is.Equal(name(), "first")
		}
		is.Equal(strings.Count(logs.String(), "WARN"), 1)
		put(good)
		is.Equal(name(), "second and longer")
	})
}
