package webhook

import (
	"testing"

	"github.com/matryer/is"
)

// Whoever chooses a tenant's name chooses no host.
func TestEndpointsThatAreNone(t *testing.T) {
	for _, text := range []string{
		"", "api.example.com/hooks", "/hooks", "ftp://api.example.com", "file:///etc/passwd", "https://", "https:///hooks", "https://:443/hooks",
		"https://{tenant}/hooks", "https://{tenant}.example.com/", "https://api.{tenant}/", "https://api.example.com:{tenant}/", "{tenant}://api.example.com",
		"https://api.example.com{tenant}/", "https://{tenant}@api.example.com/", "https://api.example.com\\{tenant}/",
		"https://user@api.example.com/", "https://user:secret@api.example.com/", "https://api.example.com/#top", "https://api.example.com/#{tenant}",
		"https://api.example.com/{tenantId}", "https://api.example.com/{{tenant}}", "https://api.example.com/{", "https://api.example.com/\n",
	} {
		is := is.New(t)
		_, err := ParseEndpoint(text)
		is.True(err != nil) // text
		if err == nil {
			t.Log(text)
		}
	}
}

func TestEndpointOfATenant(t *testing.T) {
	for text, want := range map[string]string{
		"https://api.example.com/hooks":                        "https://api.example.com/hooks",
		"https://api.example.com/hooks/{tenant}":               "https://api.example.com/hooks/a%40b.c~d-_",
		"https://api.example.com/hooks/{tenant}/in?x={tenant}": "https://api.example.com/hooks/a%40b.c~d-_/in?x=a%40b.c~d-_",
		"https://api.example.com?x={tenant}":                   "https://api.example.com?x=a%40b.c~d-_",
	} {
		is := is.New(t)
		e, err := ParseEndpoint(text)
		is.NoErr(err)
		is.Equal(e.Of("a@b.c~d-_"), want)
		_, plain := e.Plain()
		is.True(!plain)
	}
	is := is.New(t)
	e, err := ParseEndpoint("http://[::1]:8080/hooks/{tenant}")
	is.NoErr(err)
	host, plain := e.Plain()
	is.True(plain)
	is.Equal(host, "::1")
	is.Equal(e.Of("../../x?y#z&w"), "http://[::1]:8080/hooks/..%2F..%2Fx%3Fy%23z%26w") // whatever a tenant may be called one day
}
