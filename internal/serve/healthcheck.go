package serve

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"
)

// CheckHealth asks a hub whether it is alive: a container without a shell checks itself so.
func CheckHealth(addr string, secure bool) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	// The certificate is for the name that clients use, and we ask ourselves.
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	res, err := client.Get(scheme + net.JoinHostPort(host, port) + "/healthz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", res.Request.URL, res.Status)
	}
	return nil
}
