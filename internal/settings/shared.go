package settings

import (
	"slices"
	"strings"
)

// SharedSecrets are what all hubs of a cluster have and nobody else: several while one is being
// replaced. A hub that is alone may have none. Where hubs share no secret, as they trust an
// identity provider or nobody at all, the last resort is what they share, which is none: what is
// signed with it must not be trusted further than the credential that comes with it.
func (c Config) SharedSecrets() []string {
	switch {
	case c.JWTSecret != "":
		return strings.Split(c.JWTSecret, ",")
	case c.PeersSecret != "":
		return []string{c.PeersSecret}
	case len(c.APIKeys) > 0:
		keys := slices.Clone(c.APIKeys)
		for i := range keys {
			keys[i] = strings.TrimSpace(keys[i])
		}
		slices.Sort(keys)
		return []string{strings.Join(keys, ",")}
	case c.NATSURL != "" || len(c.Peers) > 0:
		return []string{strings.Join([]string{c.NATSPrefix, c.JWKSURL, c.JWTPublicKey}, "\n")}
	}
	return nil
}
