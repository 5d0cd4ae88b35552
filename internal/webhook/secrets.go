package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Secrets are the keys that sign, all of them.
type Secrets [][]byte

const (
	secretPrefix              = "whsec_"
	shortestKey, longestKey   = 24, 64 // bytes, by Standard Webhooks
	signaturePrefix, betweens = "v1,", " "
)

// ParseSecrets reads secrets, each whsec_ and a key of 24 to 64 bytes in base64. An error repeats
// none of them.
func ParseSecrets(texts []string) (Secrets, error) {
	var keys Secrets
	for i, text := range texts {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < shortestKey || len(key) > longestKey {
			return nil, fmt.Errorf("entry %d is not whsec_ and 24 to 64 random bytes in base64: echo whsec_$(openssl rand -base64 32)", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Sign is the signature of a message: one of each secret, so that a service that knows any of
// them can check it.
func (s Secrets) Sign(id string, at time.Time, body []byte) string {
	var signatures []string
	for _, key := range s {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		signatures = append(signatures, signaturePrefix+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, betweens)
}
