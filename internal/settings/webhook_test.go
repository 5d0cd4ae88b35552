package settings

import (
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/outbox"
)

const (
	signs = "REALTIME_WEBHOOK_SECRET=whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"
	calls = "REALTIME_WEBHOOK_URL=https://api.example.com/hooks/{tenant}"
)

// Whoever can name a tenant, or listen on the way, gains nothing by it.
func TestWebhooksThatAreRefused(t *testing.T) {
	for s, name := range map[string]string{
		calls: "WEBHOOK_SECRET",
		calls + " REALTIME_WEBHOOK_SECRET=secret1":                          "WEBHOOK_SECRET",
		calls + " " + signs + ",whsec_secret1":                              "WEBHOOK_SECRET",
		signs + " REALTIME_WEBHOOK_URL=http://api.example.com/hooks":        "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=http://169.254.169.254/":             "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=http://10.0.0.1/":                    "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=http://localhost.example.com/":       "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=http://127.0.0.1.example.com/":       "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=https://{tenant}.example.com/":       "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=https://me:secret1@api.example.com/": "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=https://{tenant}@api.example.com/":   "WEBHOOK_URL",
		signs + " REALTIME_WEBHOOK_URL=ftp://api.example.com/":              "WEBHOOK_URL",
		"REALTIME_WEBHOOK_TYPES=event.undelivered,event.delivered":          "WEBHOOK_TYPES",
		"REALTIME_WEBHOOK_TYPES=event.undelivered,":                         "WEBHOOK_TYPES",
		signs + " " + calls + " REALTIME_WEBHOOK_INSECURE=perhaps":          "WEBHOOK_INSECURE",
	} {
		is := is.New(t)
		_, err := Load(strings.Fields(s))
		is.True(err != nil && strings.HasPrefix(err.Error(), Prefix+name+" ")) // s
		is.True(err == nil || !strings.Contains(err.Error(), "secret1"))
	}
	for _, s := range []string{
		calls + " " + signs,
		signs + " REALTIME_WEBHOOK_URL=http://127.0.0.1:8080/hooks",
		signs + " REALTIME_WEBHOOK_URL=http://localhost:8080/hooks?t={tenant}",
		signs + " REALTIME_WEBHOOK_URL=http://[::1]/hooks",
		signs + " REALTIME_WEBHOOK_URL=http://api/hooks REALTIME_WEBHOOK_INSECURE=true",
		"REALTIME_WEBHOOK_TYPES=event.undelivered",
	} {
		is := is.New(t)
		cfg, err := Load(strings.Fields(s))
		is.NoErr(err)
		is.Equal(cfg.Misfits(strings.Fields(s)), nil)
	}
	is := is.New(t)
	cfg, err := Load([]string{signs})
	is.NoErr(err)
	is.Equal(cfg.Misfits([]string{signs}), []string{"REALTIME_WEBHOOK_SECRET needs REALTIME_WEBHOOK_URL"})
}

func TestWebhookOfTheSettings(t *testing.T) {
	is := is.New(t)
	cfg, err := Load(nil)
	is.NoErr(err)
	endpoint, secrets := cfg.Webhook()
	is.True(endpoint == nil && secrets == nil)
	cfg, err = Load([]string{calls, signs + ", whsec_REVGREVGREVGREVGREVGREVGREVGREVG"})
	is.NoErr(err)
	endpoint, secrets = cfg.Webhook()
	is.Equal(endpoint.Of("acme"), "https://api.example.com/hooks/acme")
	is.Equal(len(secrets), 2)
}

// Nothing is kept for nobody.
func TestWhatServicesAreTold(t *testing.T) {
	for s, want := range map[string][]outbox.Type{
		"":                  {outbox.TypeUndelivered},
		calls + " " + signs: {outbox.TypeUndelivered, outbox.TypePresence},
		"REALTIME_WEBHOOK_TYPES=presence.changed,group.vacated":           {outbox.TypePresence, outbox.TypeGroupVacated},
		calls + " " + signs + " REALTIME_WEBHOOK_TYPES=connection.opened": {outbox.TypeConnected},
	} {
		is := is.New(t)
		cfg, err := Load(strings.Fields(s))
		is.NoErr(err)
		is.Equal(cfg.Told(), want)
	}
	is := is.New(t)
	cfg, err := Load([]string{"REALTIME_WEBHOOK_TYPES=presence.changed, group.vacated"})
	is.NoErr(err)
	is.Equal(cfg.Told(), []outbox.Type{outbox.TypePresence, outbox.TypeGroupVacated}) // a blank after the comma
}
