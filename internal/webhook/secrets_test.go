package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// The example that Standard Webhooks' own libraries are tested with. openssl says the same:
// openssl dgst -sha256 -mac HMAC -macopt hexkey:… of id.timestamp.body.
func TestTheSignatureIsTheSpecifications(t *testing.T) {
	is := is.New(t)
	keys, err := ParseSecrets([]string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
	is.NoErr(err)
	got := keys.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	is.Equal(got, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
}

// Secrets are rotated without a moment at which a service knows none of them.
func TestRotation(t *testing.T) {
	is := is.New(t)
	older, newer := "whsec_"+strings.Repeat("QUJD", 8), "whsec_"+strings.Repeat("REVG", 16)
	keys, err := ParseSecrets([]string{newer, " " + older})
	is.NoErr(err)
	is.Equal(keys, Secrets{[]byte(strings.Repeat("DEF", 16)), []byte(strings.Repeat("ABC", 8))})
	both := keys.Sign("msg_1", time.Unix(1, 999), []byte("{}"))
	var each []string
	for _, text := range []string{newer, older} {
		one, err := ParseSecrets([]string{text})
		is.NoErr(err)
		each = append(each, one.Sign("msg_1", time.Unix(1, 0), []byte("{}")))
	}
	is.Equal(both, strings.Join(each, " "))
	is.True(each[0] != each[1])
}

func TestSecretsThatAreNone(t *testing.T) {
	for _, text := range []string{
		"", "whsec_", "whsec_dG9vIHNob3J0", "QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD", "whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJ!",
		"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)), "whsk_" + strings.Repeat("QUJD", 8),
	} {
		is := is.New(t)
		_, err := ParseSecrets([]string{"whsec_" + strings.Repeat("QUJD", 8), text})
		is.True(err != nil && strings.HasPrefix(err.Error(), "entry 2 is not")) // which one
		is.True(len(text) < 7 || !strings.Contains(err.Error(), text[6:]))      // but not what it says
	}
}

// checks is what a service does, written as the specification has it and not as the sender does.
func checks(secret, id, timestamp, signatures string, body []byte) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id))
	mac.Write([]byte("."))
	mac.Write([]byte(timestamp))
	mac.Write([]byte("."))
	mac.Write(body)
	for signature := range strings.SplitSeq(signatures, " ") {
		version, encoded, _ := strings.Cut(signature, ",")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if version == "v1" && err == nil && hmac.Equal(sum, mac.Sum(nil)) {
			return true
		}
	}
	return false
}
