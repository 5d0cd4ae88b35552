package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateEvery is how often at most the files are looked at.
const certificateEvery = time.Second

// Certificate is a TLS certificate in files, read again when they change, so that
// a renewed one needs no restart. While they cannot be read the last good one serves.
type Certificate struct {
	cert, key string // paths
	logger    *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	loaded  *tls.Certificate
	version [2]os.FileInfo // of loaded
	looked  time.Time
	failure string // the last, which the log has told; empty: none
}

// LoadCertificate reads both files; an error is theirs.
func LoadCertificate(cert, key string, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key, logger: logger}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.loadLocked()
}

func (c *Certificate) loadLocked() error {
	version := c.stat() // before they are read: what changes meanwhile is seen next time
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err == nil {
		c.loaded, c.version = &pair, version
	}
	return err
}

func (c *Certificate) stat() (version [2]os.FileInfo) {
	for i, name := range []string{c.cert, c.key} {
		version[i], _ = os.Stat(name)
	}
	return version
}

func sameVersion(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Get is tls.Config's GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= certificateEvery {
		c.looked = now
		if v := c.stat(); !sameVersion(v[0], c.version[0]) || !sameVersion(v[1], c.version[1]) {
			if err := c.loadLocked(); err == nil {
				c.failure = ""
				c.logger.Info("certificate: read again")
			} else if c.failure != err.Error() {
				c.failure = err.Error()
				c.logger.Warn("certificate: not read again, the last good one serves; it is tried again", "err", err)
			}
		}
	}
	return c.loaded, nil
}
