package serve

import (
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		folder := t.TempDir()
		cert, key := hubtest.WriteCertificate(t, folder, "first")
		c, err := LoadCertificate(cert, key, slog.New(slog.DiscardHandler))
		is.NoErr(err)
		name := func() string {
			time.Sleep(time.Second) // files are looked at once in a second
			pair, err := c.get(nil)
			is.NoErr(err)
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			is.NoErr(err)
			return leaf.Subject.CommonName
		}
		is.Equal(name(), "first")
		hubtest.WriteCertificate(t, folder, "second and longer")
		is.Equal(name(), "second and longer")
		is.NoErr(os.WriteFile(key, []byte("nonsense"), 0o600))
		is.Equal(name(), "second and longer") // the last good one
		is.NoErr(os.Remove(cert))
		is.Equal(name(), "second and longer")
		hubtest.WriteCertificate(t, folder, "third")
		is.Equal(name(), "third")
		_, err = LoadCertificate(cert, filepath.Join(folder, "nothing"), slog.New(slog.DiscardHandler))
		is.True(err != nil)
	})
}

// That files could not be read once does not mean that they cannot be: a full table of
// descriptors leaves no trace on them.
func TestCertificateIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs testkit.Buffer
		folder := t.TempDir()
		cert, key := hubtest.WriteCertificate(t, folder, "first")
		c, err := LoadCertificate(cert, key, slog.New(slog.NewTextHandler(&logs, nil)))
		is.NoErr(err)
		name := func() string {
			time.Sleep(time.Second) // files are looked at once in a second
			pair, err := c.get(nil)
			is.NoErr(err)
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			is.NoErr(err)
			return leaf.Subject.CommonName
		}
		hubtest.WriteCertificate(t, folder, "second and longer")
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
