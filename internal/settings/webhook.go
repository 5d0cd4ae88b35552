package settings

import (
	"slices"
	"strings"

	"realtimehub/internal/access"
	"realtimehub/internal/outbox"
	"realtimehub/internal/webhook"
)

// checkWebhook checks where services are told of what has happened, and of what.
func (c *Config) checkWebhook(f *faults) {
	for i, name := range c.WebhookTypes {
		c.WebhookTypes[i] = strings.TrimSpace(name)
		f.add(!slices.Contains(outbox.Types(), outbox.Type(c.WebhookTypes[i])), "WEBHOOK_TYPES", "names %q, which is none of %s", c.WebhookTypes[i], join(outbox.Types()))
	}
	_, err := webhook.ParseSecrets(c.WebhookSecret)
	f.add(err != nil, "WEBHOOK_SECRET", "is not valid: %v", err)
	if c.WebhookURL == "" {
		return
	}
	f.add(len(c.WebhookSecret) == 0, "WEBHOOK_SECRET", "is not set, and without a signature anybody could tell your services anything; set it to whsec_$(openssl rand -base64 32)")
	endpoint, err := webhook.ParseEndpoint(c.WebhookURL)
	if err != nil {
		f.add(true, "WEBHOOK_URL", "%v", err)
		return
	}
	host, plain := endpoint.Plain()
	f.add(plain && !access.IsLoopback(host) && !c.WebhookInsecure, "WEBHOOK_URL", "is not https, and what is sent to another machine can be read on its way; %sWEBHOOK_INSECURE=true allows it", Prefix)
}

func join(types []outbox.Type) string {
	var text []string
	for _, t := range types {
		text = append(text, string(t))
	}
	return strings.Join(text, ", ")
}

// Webhook is where services are told, and the keys that sign; nil: they are not. Both were
// checked.
func (c *Config) Webhook() (*webhook.Endpoint, webhook.Secrets) {
	if c.WebhookURL == "" {
		return nil, nil
	}
	endpoint, _ := webhook.ParseEndpoint(c.WebhookURL)
	secrets, _ := webhook.ParseSecrets(c.WebhookSecret)
	return endpoint, secrets
}

// Told is what services are told of. What somebody has to ask for is kept for those who do.
func (c *Config) Told() []outbox.Type {
	switch {
	case len(c.WebhookTypes) > 0:
		var types []outbox.Type
		for _, name := range c.WebhookTypes {
			types = append(types, outbox.Type(name))
		}
		return types
	case c.WebhookURL != "":
		return []outbox.Type{outbox.TypeUndelivered, outbox.TypePresence}
	}
	return []outbox.Type{outbox.TypeUndelivered}
}
