package settings

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"realtimehub/internal/access"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/plan"
)

// Prefix is what each setting's name begins with.
const Prefix = "REALTIME_"

// Config is read from the environment; the README's table is held to it by a test.
type Config struct {
	Addr             string        `env:"ADDR" envDefault:"127.0.0.1:8080"`
	TLSCert          string        `env:"TLS_CERT"`
	TLSKey           string        `env:"TLS_KEY"`
	TLSClientCA      string        `env:"TLS_CLIENT_CA"`
	AdminAddr        string        `env:"ADMIN_ADDR"`
	JWTSecret        string        `env:"JWT_SECRET"`
	JWTPublicKey     string        `env:"JWT_PUBLIC_KEY"`
	JWKSURL          string        `env:"JWKS_URL"`
	JWTIssuer        string        `env:"JWT_ISSUER"`
	JWTAudience      string        `env:"JWT_AUDIENCE"`
	JWTTenantClaim   string        `env:"JWT_TENANT_CLAIM" envDefault:"tenant"`
	APIKeys          []string      `env:"API_KEYS"`
	CORSOrigins      []string      `env:"CORS_ORIGINS"`
	DangerouslyOpen  bool          `env:"DANGEROUSLY_OPEN" envDefault:"false"`
	IdleTimeout      time.Duration `env:"IDLE_TIMEOUT" envDefault:"5m"`
	PresenceTick     time.Duration `env:"PRESENCE_TICK" envDefault:"1s"`
	PresenceGrace    time.Duration `env:"PRESENCE_GRACE" envDefault:"5s"`
	PresenceAudience Audience      `env:"PRESENCE_AUDIENCE" envDefault:"tenant"`
	PresenceBurst    int           `env:"PRESENCE_BURST" envDefault:"100"`
	TypingTTL        time.Duration `env:"TYPING_TTL" envDefault:"6s"`
	Heartbeat        time.Duration `env:"HEARTBEAT" envDefault:"15s"`
	Retry            time.Duration `env:"RETRY" envDefault:"2s"`
	StreamBuffer     int           `env:"STREAM_BUFFER" envDefault:"1048576"`
	MemoryBudget     *int64        `env:"MEMORY_BUDGET"` // nil: a quarter of what there is
	HistoryEvents    int           `env:"HISTORY_EVENTS" envDefault:"10000"`
	HistoryBytes     int64         `env:"HISTORY_BYTES" envDefault:"67108864"`
	HistoryTTL       time.Duration `env:"HISTORY_TTL" envDefault:"24h"`
	HistoryTotal     *int64        `env:"HISTORY_TOTAL_BYTES"` // nil: 1 GiB, or a quarter of what there is
	StateBytes       *int64        `env:"STATE_BYTES"`         // nil: an eighth of what there is
	CallBytes        *int64        `env:"CALL_BYTES"`          // nil: a 16th of what there is
	DedupeWindow     time.Duration `env:"DEDUPE_WINDOW" envDefault:"2m"`
	DedupeIDs        int           `env:"DEDUPE_IDS" envDefault:"1000000"`
	AckTimeout       time.Duration `env:"ACK_TIMEOUT" envDefault:"20s"`
	Drain            time.Duration `env:"DRAIN" envDefault:"10s"`
	MaxEventBytes    int           `env:"MAX_EVENT_BYTES" envDefault:"61440"`
	MaxBodyBytes     int           `env:"MAX_BODY_BYTES" envDefault:"1048576"`
	MaxConnections   int           `env:"MAX_CONNECTIONS" envDefault:"0"`
	MaxPerTenant     int           `env:"MAX_CONNECTIONS_PER_TENANT" envDefault:"0"`
	MaxPerProfile    int           `env:"MAX_CONNECTIONS_PER_PROFILE" envDefault:"256"`
	MaxMemberships   int           `env:"MAX_MEMBERSHIPS_PER_TENANT" envDefault:"1000000"`
	MaxPerAddress    int           `env:"MAX_CONNECTIONS_PER_ADDRESS" envDefault:"256"`
	TrustedProxies   []string      `env:"TRUSTED_PROXIES"`
	PublishRate      float64       `env:"PUBLISH_RATE" envDefault:"0"`
	ClientRate       float64       `env:"CLIENT_RATE" envDefault:"20"`
	FailedTokenRate  float64       `env:"FAILED_TOKEN_RATE" envDefault:"10"`
	AdminRate        float64       `env:"ADMIN_RATE" envDefault:"100"`
	Data             string        `env:"DATA"`
	Sync             Sync          `env:"SYNC" envDefault:"1s"`
	Peers            []string      `env:"PEERS"`
	PeersAddr        string        `env:"PEERS_ADDR" envDefault:":6222"`
	PeersSecret      string        `env:"PEERS_SECRET"`
	PeersCert        string        `env:"PEERS_CERT"`
	PeersKey         string        `env:"PEERS_KEY"`
	PeersCA          string        `env:"PEERS_CA"`
	NATSURL          string        `env:"NATS_URL"`
	NATSCreds        string        `env:"NATS_CREDS"`
	NATSPrefix       string        `env:"NATS_PREFIX" envDefault:"realtime"`
	NATSReplicas     int           `env:"NATS_REPLICAS" envDefault:"1"`
	NATSHistoryBytes *int64        `env:"NATS_HISTORY_BYTES"` // nil: 1 GiB, or HISTORY_BYTES if that is more
	MembershipURL    string        `env:"MEMBERSHIP_URL"`
	MembershipToken  string        `env:"MEMBERSHIP_TOKEN"`
	WebhookURL       string        `env:"WEBHOOK_URL"`
	WebhookSecret    []string      `env:"WEBHOOK_SECRET"`
	WebhookTypes     []string      `env:"WEBHOOK_TYPES"` // empty: see Told
	WebhookInsecure  bool          `env:"WEBHOOK_INSECURE" envDefault:"false"`
	MetricsTenants   int           `env:"METRICS_TENANTS" envDefault:"0"`
	LogLevel         slog.Level    `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat        string        `env:"LOG_FORMAT" envDefault:"text"`
}

// Load reads and checks the environment ("KEY=value" each); every fault
// names its variable, and none repeats a secret.
func Load(environ []string) (Config, error) {
	var c Config
	err := env.ParseWithOptions(&c, env.Options{Prefix: Prefix, Environment: env.ToMap(environ)})
	if err != nil {
		return c, nameVariables(err)
	}
	for i, origin := range c.CORSOrigins {
		c.CORSOrigins[i] = strings.TrimSpace(origin) // as API_KEYS may be written
	}
	var f faults
	c.checkTimes(&f)
	c.checkNumbers(&f)
	c.checkWords(&f)
	c.checkStored(&f)
	c.checkURLs(&f)
	c.checkAddresses(&f)
	c.checkFolder(&f)
	c.checkWebhook(&f)
	return c, errors.Join(f...)
}

// faults are what is wrong, in the order in which it was found.
type faults []error

// add adds a fault of a setting, if it is bad: a sentence whose subject is the variable.
func (f *faults) add(bad bool, name, format string, args ...any) {
	if bad {
		*f = append(*f, fmt.Errorf(Prefix+name+" "+format, args...))
	}
}

func (c *Config) checkTimes(f *faults) {
	for _, d := range []struct {
		name string
		d    time.Duration
		zero bool // lifts the limit
	}{
		{"IDLE_TIMEOUT", c.IdleTimeout, true}, {"PRESENCE_TICK", c.PresenceTick, false},
		{"PRESENCE_GRACE", c.PresenceGrace, true}, {"TYPING_TTL", c.TypingTTL, false},
		{"HEARTBEAT", c.Heartbeat, true}, {"HISTORY_TTL", c.HistoryTTL, true},
		{"DEDUPE_WINDOW", c.DedupeWindow, true}, {"DRAIN", c.Drain, true}, {"ACK_TIMEOUT", c.AckTimeout, true},
	} {
		f.add(d.d < 0, d.name, "is %v, and must not be negative", d.d)
		f.add(d.d == 0 && !d.zero, d.name, "is 0, which is too short: 1s is usual")
	}
	f.add(c.Retry < time.Millisecond, "RETRY", "is %v, and must be 1ms at least", c.Retry)
}

func (c *Config) checkNumbers(f *faults) {
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"PRESENCE_BURST", int64(c.PresenceBurst)}, {"STREAM_BUFFER", int64(c.StreamBuffer)},
		{"HISTORY_EVENTS", int64(c.HistoryEvents)}, {"HISTORY_BYTES", c.HistoryBytes}, {"DEDUPE_IDS", int64(c.DedupeIDs)},
		{"MAX_EVENT_BYTES", int64(c.MaxEventBytes)}, {"MAX_BODY_BYTES", int64(c.MaxBodyBytes)},
		{"MAX_CONNECTIONS", int64(c.MaxConnections)}, {"MAX_CONNECTIONS_PER_TENANT", int64(c.MaxPerTenant)},
		{"MAX_CONNECTIONS_PER_PROFILE", int64(c.MaxPerProfile)}, {"MAX_CONNECTIONS_PER_ADDRESS", int64(c.MaxPerAddress)}, {"MAX_MEMBERSHIPS_PER_TENANT", int64(c.MaxMemberships)},
	} {
		f.add(n.n < 0, n.name, "is %d, and must not be negative; 0 lifts the limit", n.n)
	}
	f.add(c.MetricsTenants < 0, "METRICS_TENANTS", "is %d, and must not be negative; 0 shows no tenant", c.MetricsTenants)
	for _, rate := range []struct {
		name      string
		perSecond float64
	}{
		{"PUBLISH_RATE", c.PublishRate}, {"CLIENT_RATE", c.ClientRate}, {"FAILED_TOKEN_RATE", c.FailedTokenRate}, {"ADMIN_RATE", c.AdminRate},
	} {
		f.add(!(rate.perSecond >= 0 && rate.perSecond <= 1e9), rate.name, "is not a number from 0 to 1,000,000,000; 0 lifts the limit")
	}
	for _, part := range []struct {
		name string
		set  *int64
	}{
		{"MEMORY_BUDGET", c.MemoryBudget}, {"HISTORY_TOTAL_BYTES", c.HistoryTotal}, {"STATE_BYTES", c.StateBytes}, {"CALL_BYTES", c.CallBytes},
		{"NATS_HISTORY_BYTES", c.NATSHistoryBytes},
	} {
		f.add(part.set != nil && *part.set < 0, part.name, "must not be negative; 0 lifts the limit")
	}
	f.add(c.NATSReplicas < 1 || c.NATSReplicas > 5, "NATS_REPLICAS", "is %d, and must be 1 to 5", c.NATSReplicas)
}

// checkWords checks what is one of a few words, and what goes with something else.
func (c *Config) checkWords(f *faults) {
	f.add((c.TLSCert == "") != (c.TLSKey == ""), "TLS_CERT", "must be set together with %sTLS_KEY", Prefix)
	f.add(c.TLSClientCA != "" && c.TLSCert == "", "TLS_CLIENT_CA", "needs %sTLS_CERT: clients show certificates over TLS only", Prefix)
	f.add(c.TLSClientCA != "" && len(c.APIKeys) == 0 && c.AdminAddr == "", "TLS_CLIENT_CA", "needs %[1]sAPI_KEYS, which it guards, or %[1]sADMIN_ADDR", Prefix)
	f.add(!event.PlainWord(c.NATSPrefix, "_-"), "NATS_PREFIX", "is %q, and must be 1–128 of A-Za-z0-9_-", c.NATSPrefix)
	f.add(!slices.Contains([]Audience{AudienceTenant, AudienceShared, AudienceNone}, c.PresenceAudience), "PRESENCE_AUDIENCE", "is %q, and must be tenant, shared or none", c.PresenceAudience)
	f.add(c.LogFormat != "text" && c.LogFormat != "json", "LOG_FORMAT", "is %q, and must be text or json", c.LogFormat)
}

func (c *Config) checkURLs(f *faults) {
	for _, setting := range []struct{ name, text string }{{"MEMBERSHIP_URL", c.MembershipURL}, {"JWKS_URL", c.JWKSURL}} {
		if setting.text == "" {
			continue
		}
		u, err := url.Parse(setting.text)
		bad := err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != ""
		f.add(bad, setting.name, "is not a URL such as https://login.example.com/path")
		f.add(!bad && setting.name == "MEMBERSHIP_URL" && u.RawQuery != "", setting.name, "has a query; the hub adds its own")
	}
}

// checkAddresses checks where the hub listens, and whom it takes for a proxy.
func (c *Config) checkAddresses(f *faults) {
	_, bad := lobby.ParseProxies(c.TrustedProxies)
	f.add(bad != nil, "TRUSTED_PROXIES", "%v", bad)
	for _, listen := range []struct{ name, addr string }{{"ADDR", c.Addr}, {"ADMIN_ADDR", c.AdminAddr}} {
		if listen.addr == "" && listen.name == "ADMIN_ADDR" {
			continue
		}
		host, _, err := net.SplitHostPort(listen.addr)
		f.add(err != nil, listen.name, "is %q, and must be host:port", listen.addr)
		f.add(err == nil && c.Access().Open() && !access.IsLoopback(host) && !c.DangerouslyOpen, listen.name,
			"is %q, which can be reached from other machines, and without credentials anybody there could read and publish everything; set %[2]sJWT_SECRET, %[2]sJWT_PUBLIC_KEY, %[2]sJWKS_URL or %[2]sAPI_KEYS, listen on 127.0.0.1, or set %[2]sDANGEROUSLY_OPEN=true", listen.addr, Prefix)
	}
}

// nameVariables turns the library's words, which name our struct's fields and
// repeat the value, into the variables' names.
func nameVariables(err error) error {
	aggregate, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		return err
	}
	var errs []error
	for _, err := range aggregate.Errors {
		if parse, ok := errors.AsType[env.ParseError](err); ok {
			if field, ok := reflect.TypeFor[Config]().FieldByName(parse.Name); ok {
				err = fmt.Errorf("%s%s is not a valid %s", Prefix, field.Tag.Get("env"), kindName(field.Type))
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func kindName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration such as 15s or 5m"
	case reflect.TypeFor[Sync]():
		return `duration from 1ms to 1h, or "always"`
	case reflect.TypeFor[slog.Level]():
		return "level: debug, info, warn or error"
	case reflect.TypeFor[bool]():
		return "boolean: true or false"
	case reflect.TypeFor[float64]():
		return "number"
	}
	return "whole number such as 1048576, without a unit"
}

// Unknown are those with our prefix that mean nothing, such as a misspelt one; TOKEN, URL and
// TENANT are of the commands that ask a hub.
func Unknown(environ []string) (unknown []string) {
	params, _ := env.GetFieldParamsWithOptions(&Config{}, env.Options{Prefix: Prefix})
	for _, line := range environ {
		name, _, _ := strings.Cut(line, "=")
		known := slices.Contains([]string{Prefix + "TOKEN", Prefix + "URL", Prefix + "TENANT"}, name) || slices.ContainsFunc(params, func(p env.FieldParams) bool { return p.Key == name })
		if strings.HasPrefix(name, Prefix) && !known {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// keySettings have a hub ask for tokens.
var keySettings = []string{"JWT_SECRET", "JWT_PUBLIC_KEY", "JWKS_URL"}

// needed are the settings that mean nothing without another: any of these.
var needed = map[string][]string{
	"JWT_ISSUER": keySettings, "JWT_AUDIENCE": keySettings, "JWT_TENANT_CLAIM": keySettings,
	"NATS_CREDS": {"NATS_URL"}, "NATS_PREFIX": {"NATS_URL", "DATA"}, "NATS_REPLICAS": {"NATS_URL"}, "NATS_HISTORY_BYTES": {"NATS_URL", "DATA"},
	"SYNC": {"DATA"}, "PEERS_ADDR": {"PEERS"}, "PEERS_SECRET": {"PEERS"}, "PEERS_CERT": {"PEERS"}, "PEERS_KEY": {"PEERS"}, "PEERS_CA": {"PEERS"},
	"MEMBERSHIP_TOKEN": {"MEMBERSHIP_URL"}, "WEBHOOK_SECRET": {"WEBHOOK_URL"}, "WEBHOOK_INSECURE": {"WEBHOOK_URL"},
}

// Misfits are the settings that mean nothing beside the others, or harm, each with the reason.
func (c *Config) Misfits(environ []string) (misfits []string) {
	set := env.ToMap(environ)
	isSet := func(name string) bool { return set[Prefix+name] != "" }
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if isSet(name) && !slices.ContainsFunc(needed[name], isSet) {
			misfits = append(misfits, Prefix+name+" needs "+Prefix+strings.Join(needed[name], " or "+Prefix))
		}
	}
	if c.MaxBodyBytes > 0 && c.MaxEventBytes > c.MaxBodyBytes {
		misfits = append(misfits, Prefix+"MAX_EVENT_BYTES is more than "+Prefix+"MAX_BODY_BYTES, which limits events too")
	}
	if most := cmp.Or(c.MaxEventBytes, c.MaxBodyBytes); c.StreamBuffer > 0 && c.StreamBuffer < most {
		misfits = append(misfits, fmt.Sprintf("%sSTREAM_BUFFER is smaller than the largest event that is accepted, %d bytes: such an event would cut the streams that it is for", Prefix, most))
	}
	if c.DangerouslyOpen && !c.Access().Open() {
		misfits = append(misfits, Prefix+"DANGEROUSLY_OPEN is for a hub without credentials, and this one has some")
	}
	return misfits
}

// Access is what credentials are checked against; it has no logger yet.
func (c *Config) Access() access.Config {
	return access.Config{
		Secret: c.JWTSecret, PublicKey: c.JWTPublicKey, JWKSURL: c.JWKSURL, Issuer: c.JWTIssuer, Audience: c.JWTAudience,
		TenantClaim: c.JWTTenantClaim, APIKeys: c.APIKeys, Certified: c.TLSClientCA != "", Origins: c.CORSOrigins,
		FailedRate: c.FailedTokenRate,
	}
}

// Proxies are the trusted ones, which were checked.
func (c *Config) Proxies() lobby.Proxies {
	proxies, _ := lobby.ParseProxies(c.TrustedProxies)
	return proxies
}

// Memory is the plan for the memory that is there, with what was set.
func (c *Config) Memory() plan.Memory {
	memory := plan.Of(plan.Available())
	for _, part := range []struct {
		set  *int64
		part *int64
	}{
		{c.MemoryBudget, &memory.Streams}, {c.HistoryTotal, &memory.History},
		{c.StateBytes, &memory.State}, {c.CallBytes, &memory.Calls},
	} {
		if part.set != nil {
			*part.part = *part.set
		}
	}
	return memory
}

// Audience says who may see a profile's presence.
type Audience string

// The audiences.
const (
	AudienceTenant Audience = "tenant" // everybody in the tenant
	AudienceShared Audience = "shared" // who has a conversation or group in common
	AudienceNone   Audience = "none"   // nobody
)
