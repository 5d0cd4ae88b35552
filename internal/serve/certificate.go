package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"sync"

	"realtimehub/internal/reread"
)

// Certificate is a TLS certificate in files, read again when they change.
type Certificate struct {
	files *reread.File[*tls.Certificate]
}

// LoadCertificate reads both files. It fails if they cannot be used.
func LoadCertificate(cert, key string, logger *slog.Logger) (*Certificate, error) {
	f, err := reread.Open("certificate", logger, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}, cert, key)
	return &Certificate{f}, err
}

// get is tls.Config's GetCertificate.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.files.Get(), nil }

// Reload reads the files now, changed or not.
func (c *Certificate) Reload() { c.files.Reload() }

// Mutual is how hubs speak to each other: each shows the certificate, and takes those that an
// authority in the file has signed; without a file, the system's authorities.
func (c *Certificate) Mutual(authorities string) (*tls.Config, error) {
	config := &tls.Config{
		GetCertificate:       c.get,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.files.Get(), nil },
		ClientAuth:           tls.RequireAndVerifyClientCert,
	}
	if authorities == "" {
		return config, nil
	}
	pool, err := readAuthorities(authorities)
	config.RootCAs, config.ClientCAs = pool, pool
	return config, err
}

// ClientCAs are the authorities whose certificates services show, in a file that is
// read again when it changes.
type ClientCAs struct{ files *reread.File[*x509.CertPool] }

// LoadClientCAs reads a file of PEM blocks. It fails if there is no certificate in it.
func LoadClientCAs(path string, logger *slog.Logger) (*ClientCAs, error) {
	f, err := reread.Open("client CA certificates", logger, func() (*x509.CertPool, error) { return readAuthorities(path) }, path)
	return &ClientCAs{f}, err
}

func readAuthorities(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("the file contains no certificate")
	}
	return pool, nil
}

// Reload reads the file now, changed or not.
func (c *ClientCAs) Reload() { c.files.Reload() }

// Require makes a server ask its clients for a certificate; must says whether they need one.
func (c *ClientCAs) Require(config *tls.Config, must bool) {
	config.ClientAuth = tls.VerifyClientCertIfGiven
	if must {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.ClientCAs = c.files.Get()
	var mu sync.Mutex
	current := config // guarded by mu: what the last handshake had
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool := c.files.Get()
		mu.Lock()
		defer mu.Unlock()
		if current.ClientCAs != pool { // a config is not changed while it is used
			current = current.Clone()
			current.ClientCAs, current.GetConfigForClient = pool, nil
		}
		return current, nil
	}
}
