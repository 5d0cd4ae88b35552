package settings

import (
	"iter"
	"reflect"
	"strings"
	"testing"

	"realtimehub/internal/access"
	"realtimehub/internal/hubtest"

	"github.com/matryer/is"
)

func TestReadmeSettings(t *testing.T) {
	is := is.New(t)
	var got []string
	for line := range strings.Lines(hubtest.ReadFile(t, "README.md")) {
		if cells := strings.Split(line, "|"); len(cells) > 4 && strings.HasPrefix(cells[1], " `REALTIME_") {
			is.True(len(strings.TrimSpace(cells[3])) > 10) // a reason
			got = append(got, strings.Trim(cells[1], " `")+"="+strings.Trim(cells[2], " `–"))
		}
	}
	var want []string
	for name, standard := range standards() {
		want = append(want, name+"="+standard)
	}
	is.Equal(got, want)
}

// standards are the settings in their order, each with its default as people read it.
func standards() iter.Seq2[string, string] {
	return func(yield func(name, standard string) bool) {
		for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
			standard := field.Tag.Get("envDefault")
			if field.Type.Kind() == reflect.Pointer {
				standard = "by memory" // worked out at the start, see Config.Memory
				if field.Name == "NATSHistoryBytes" {
					standard = "by history" // see Config.Disk
				}
			}
			if !yield(Prefix+field.Tag.Get("env"), standard) {
				return
			}
		}
	}
}

func TestAWrongValueNamesItsVariable(t *testing.T) {
	for _, line := range []string{
		"REALTIME_ADDR=8080", "REALTIME_ADDR=:8080", "REALTIME_ADDR=0.0.0.0:8080", "REALTIME_DANGEROUSLY_OPEN=perhaps",
		"REALTIME_IDLE_TIMEOUT=-1s", "REALTIME_PRESENCE_TICK=0", "REALTIME_PRESENCE_AUDIENCE=all", "REALTIME_RETRY=soon",
		"REALTIME_STREAM_BUFFER=1MiB", "REALTIME_MEMORY_BUDGET=-1", "REALTIME_MEMORY_BUDGET=half", "REALTIME_MAX_BODY_BYTES=-1", "REALTIME_MEMBERSHIP_URL=ftp://secret",
		"REALTIME_NATS_PREFIX=a.b", "REALTIME_NATS_REPLICAS=0", "REALTIME_METRICS_TENANTS=-1", "REALTIME_LOG_LEVEL=loud", "REALTIME_LOG_FORMAT=xml",
	} {
		t.Run(line, func(t *testing.T) {
			is := is.New(t)
			_, err := Load([]string{line})
			is.True(err != nil)
			name, value, _ := strings.Cut(line, "=")
			is.True(strings.Contains(err.Error(), name))
			is.True(value != "ftp://secret" || !strings.Contains(err.Error(), "secret"))
		})
	}
	is := is.New(t)
	_, err := Load([]string{"REALTIME_ADDR=:8080", "REALTIME_DANGEROUSLY_OPEN=true", "REALTIME_IDLE_TIMEOUT=0", "REALTIME_STREAM_BUFFER=0"})
	is.NoErr(err)
	_, err = Load([]string{"REALTIME_NATS_URL=nats://localhost", "REALTIME_HISTORY_TTL=1s"})
	is.True(err != nil && strings.Contains(err.Error(), "REALTIME_HISTORY_TTL")) // less than the window
	for _, store := range []string{"REALTIME_NATS_URL=nats://localhost", "REALTIME_DATA=d"} {
		_, err = Load([]string{store, "REALTIME_DEDUPE_WINDOW=50ms"})
		is.True(err != nil && strings.HasPrefix(err.Error(), "REALTIME_DEDUPE_WINDOW is 50ms, which the store refuses"))
		_, err = Load([]string{store, "REALTIME_DEDUPE_WINDOW=0", "REALTIME_HISTORY_TTL=99ms"})
		is.True(err != nil && strings.HasPrefix(err.Error(), "REALTIME_HISTORY_TTL is 99ms, which the store refuses"))
		_, err = Load([]string{store, "REALTIME_DEDUPE_WINDOW=100ms", "REALTIME_HISTORY_TTL=100ms"})
		is.NoErr(err)
	}
	_, err = Load([]string{"REALTIME_DEDUPE_WINDOW=50ms", "REALTIME_HISTORY_TTL=50ms"})
	is.NoErr(err) // in memory they may be as short
	_, err = Load([]string{"REALTIME_PUBLISH_RATE=fast"})
	is.True(strings.Contains(err.Error(), "valid number")) // 0.5 is one
	cfg, err := Load([]string{"REALTIME_CORS_ORIGINS=https://a.example, https://b.example"})
	is.NoErr(err)
	_, err = access.NewAuth(t.Context(), access.Config{Origins: cfg.CORSOrigins})
	is.NoErr(err) // a blank after the comma
	_, err = access.NewAuth(t.Context(), access.Config{Origins: []string{"https://a.example", "https://b.example/app"}})
	is.True(err != nil && strings.Contains(err.Error(), "entry 2")) // which one
	is.Equal(Unknown([]string{"REALTIME_ADDR=x", "REALTIME_ADR=y", "REALTIME_TOKEN=z", "HOME=/"}), []string{"REALTIME_ADR"})
}

func TestSettingsThatDoNotFit(t *testing.T) {
	for s, want := range map[string]string{
		"REALTIME_JWT_ISSUER=x":                                      "REALTIME_JWT_ISSUER needs REALTIME_JWT_SECRET or REALTIME_JWT_PUBLIC_KEY or REALTIME_JWKS_URL",
		"REALTIME_NATS_REPLICAS=3":                                   "REALTIME_NATS_REPLICAS needs REALTIME_NATS_URL",
		"REALTIME_STREAM_BUFFER=1024":                                "REALTIME_STREAM_BUFFER is smaller than the largest event that is accepted, 61440 bytes: such an event would cut the streams that it is for",
		"REALTIME_STREAM_BUFFER=0 REALTIME_MAX_EVENT_BYTES=2000000":  "REALTIME_MAX_EVENT_BYTES is more than REALTIME_MAX_BODY_BYTES, which limits events too",
		"REALTIME_DANGEROUSLY_OPEN=true REALTIME_JWKS_URL=https://x": "REALTIME_DANGEROUSLY_OPEN is for a hub without credentials, and this one has some",
		"REALTIME_DANGEROUSLY_OPEN=true":                             "",
		"REALTIME_MEMBERSHIP_TOKEN=":                                 "",
		"REALTIME_JWT_ISSUER=x REALTIME_JWKS_URL=https://x":          "",
		"REALTIME_NATS_CREDS=c REALTIME_NATS_URL=nats://x":           "",
		"REALTIME_STREAM_BUFFER=0 REALTIME_MAX_EVENT_BYTES=2000000 REALTIME_MAX_BODY_BYTES=0 REALTIME_JWT_TENANT_CLAIM=tenant": "REALTIME_JWT_TENANT_CLAIM needs REALTIME_JWT_SECRET or REALTIME_JWT_PUBLIC_KEY or REALTIME_JWKS_URL",
	} {
		t.Run(s, func(t *testing.T) {
			is := is.New(t)
			cfg, err := Load(strings.Fields(s))
			is.NoErr(err)
			is.Equal(strings.Join(cfg.Misfits(strings.Fields(s)), ", "), want)
		})
	}
	is := is.New(t)
	for name := range needed {
		is.Equal(len(Unknown([]string{Prefix + name + "=x"})), 0) // it is a setting
	}
}

func TestTrustedSettings(t *testing.T) {
	for setting, names := range map[string]string{
		"REALTIME_TLS_CLIENT_CA=ca.pem": "REALTIME_TLS_CLIENT_CA",
		"REALTIME_ADMIN_ADDR=nonsense":  "REALTIME_ADMIN_ADDR",
		"REALTIME_ADMIN_ADDR=:9090":     "REALTIME_ADMIN_ADDR", // reachable, and without credentials
	} {
		is := is.New(t)
		_, err := Load([]string{setting})
		is.True(err != nil)
		is.True(strings.Contains(err.Error(), names+" ")) // setting
	}
}

func TestSettingsOfTheLobby(t *testing.T) {
	is := is.New(t)
	for name, value := range map[string]string{"REALTIME_TRUSTED_PROXIES": "10.0.0.1,nginx", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS": "-1"} {
		_, err := Load([]string{name + "=" + value})
		is.True(err != nil && strings.Contains(err.Error(), name))
	}
	cfg, err := Load([]string{"REALTIME_TRUSTED_PROXIES=10.0.0.1, fd00::/8", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=0"})
	is.NoErr(err)
	is.Equal(len(cfg.Proxies()), 2)
}
