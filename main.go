// Realtimehub delivers JSON events that services POST to people's browsers over
// Server-Sent Events, with presence and typing.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/caarlos0/env/v11"
	"github.com/google/uuid"

	"realtimehub/internal/doctor"
	"realtimehub/internal/sse"
)

const envPrefix = "REALTIME_"

// Config is read from the environment; the README's table is held to it by a test.
type Config struct {
	Addr             string        `env:"ADDR" envDefault:"127.0.0.1:8080"`
	TLSCert          string        `env:"TLS_CERT"`
	TLSKey           string        `env:"TLS_KEY"`
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
	PresenceAudience string        `env:"PRESENCE_AUDIENCE" envDefault:"tenant"`
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
	DedupeWindow     time.Duration `env:"DEDUPE_WINDOW" envDefault:"2m"`
	DedupeIDs        int           `env:"DEDUPE_IDS" envDefault:"1000000"`
	Drain            time.Duration `env:"DRAIN" envDefault:"10s"`
	MaxEventBytes    int           `env:"MAX_EVENT_BYTES" envDefault:"65536"`
	MaxBodyBytes     int           `env:"MAX_BODY_BYTES" envDefault:"1048576"`
	MaxConnections   int           `env:"MAX_CONNECTIONS" envDefault:"0"`
	MaxPerTenant     int           `env:"MAX_CONNECTIONS_PER_TENANT" envDefault:"0"`
	MaxPerProfile    int           `env:"MAX_CONNECTIONS_PER_PROFILE" envDefault:"0"`
	PublishRate      float64       `env:"PUBLISH_RATE" envDefault:"0"`
	ClientRate       float64       `env:"CLIENT_RATE" envDefault:"0"`
	NATSURL          string        `env:"NATS_URL"`
	NATSCreds        string        `env:"NATS_CREDS"`
	NATSPrefix       string        `env:"NATS_PREFIX" envDefault:"realtime"`
	NATSReplicas     int           `env:"NATS_REPLICAS" envDefault:"1"`
	MembershipURL    string        `env:"MEMBERSHIP_URL"`
	MembershipToken  string        `env:"MEMBERSHIP_TOKEN"`
	MetricsTenants   int           `env:"METRICS_TENANTS" envDefault:"0"`
	LogLevel         slog.Level    `env:"LOG_LEVEL" envDefault:"info"`
	LogFormat        string        `env:"LOG_FORMAT" envDefault:"text"`
}

// loadConfig reads and checks the environment ("KEY=value" each); every fault
// names its variable, and none repeats a secret.
func loadConfig(environ []string) (Config, error) {
	var cfg Config
	err := env.ParseWithOptions(&cfg, env.Options{Prefix: envPrefix, Environment: env.ToMap(environ)})
	if err != nil {
		return cfg, nameVariables(err)
	}
	var errs []error
	wrong := func(bad bool, name, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(envPrefix+name+": "+format, args...))
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
		zero bool // lifts the limit
	}{
		{"IDLE_TIMEOUT", cfg.IdleTimeout, true}, {"PRESENCE_TICK", cfg.PresenceTick, false},
		{"PRESENCE_GRACE", cfg.PresenceGrace, true}, {"TYPING_TTL", cfg.TypingTTL, false},
		{"HEARTBEAT", cfg.Heartbeat, true}, {"HISTORY_TTL", cfg.HistoryTTL, true},
		{"DEDUPE_WINDOW", cfg.DedupeWindow, true}, {"DRAIN", cfg.Drain, true},
	} {
		wrong(d.d < 0 || d.d == 0 && !d.zero, d.name, "%v is too short", d.d)
	}
	wrong(cfg.Retry < time.Millisecond, "RETRY", "%v is too short, 1ms at least", cfg.Retry)
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"PRESENCE_BURST", int64(cfg.PresenceBurst)}, {"STREAM_BUFFER", int64(cfg.StreamBuffer)},
		{"HISTORY_EVENTS", int64(cfg.HistoryEvents)}, {"HISTORY_BYTES", cfg.HistoryBytes}, {"DEDUPE_IDS", int64(cfg.DedupeIDs)},
		{"MAX_EVENT_BYTES", int64(cfg.MaxEventBytes)}, {"MAX_BODY_BYTES", int64(cfg.MaxBodyBytes)},
		{"MAX_CONNECTIONS", int64(cfg.MaxConnections)}, {"MAX_CONNECTIONS_PER_TENANT", int64(cfg.MaxPerTenant)},
		{"MAX_CONNECTIONS_PER_PROFILE", int64(cfg.MaxPerProfile)},
	} {
		wrong(n.n < 0, n.name, "%d is negative; 0 lifts the limit", n.n)
	}
	wrong(cfg.MetricsTenants < 0, "METRICS_TENANTS", "%d is negative; 0 shows no tenant", cfg.MetricsTenants)
	for name, perSecond := range map[string]float64{"PUBLISH_RATE": cfg.PublishRate, "CLIENT_RATE": cfg.ClientRate} {
		wrong(!(perSecond >= 0 && perSecond <= 1e9), name, "is not a number of 0 to a milliard a second; 0 lifts the limit")
	}
	wrong((cfg.TLSCert == "") != (cfg.TLSKey == ""), "TLS_CERT", "and %sTLS_KEY go together", envPrefix)
	wrong(cfg.MemoryBudget != nil && *cfg.MemoryBudget < 0, "MEMORY_BUDGET", "is negative; 0 lifts the limit")
	wrong(cfg.HistoryTotal != nil && *cfg.HistoryTotal < 0, "HISTORY_TOTAL_BYTES", "is negative; 0 lifts the limit")
	wrong(!plainWord(cfg.NATSPrefix, "_-"), "NATS_PREFIX", "%q is not 1–128 of A-Za-z0-9_-", cfg.NATSPrefix)
	wrong(cfg.NATSReplicas < 1 || cfg.NATSReplicas > 5, "NATS_REPLICAS", "%d is not 1 to 5", cfg.NATSReplicas)
	wrong(cfg.NATSURL != "" && cfg.HistoryTTL > 0 && cfg.HistoryTTL < cfg.DedupeWindow, "HISTORY_TTL", "%v is less than %sDEDUPE_WINDOW, which the broker refuses", cfg.HistoryTTL, envPrefix)
	audiences := []string{string(AudienceTenant), string(AudienceShared), string(AudienceNone)}
	wrong(!slices.Contains(audiences, cfg.PresenceAudience), "PRESENCE_AUDIENCE", "%q is not tenant, shared or none", cfg.PresenceAudience)
	wrong(cfg.LogFormat != "text" && cfg.LogFormat != "json", "LOG_FORMAT", "%q is not text or json", cfg.LogFormat)
	for name, text := range map[string]string{"MEMBERSHIP_URL": cfg.MembershipURL, "JWKS_URL": cfg.JWKSURL} {
		if text != "" {
			u, err := url.Parse(text)
			wrong(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || name == "MEMBERSHIP_URL" && u.RawQuery != "" || u.Fragment != "",
				name, "is not an http or https URL, which for membership has no query")
		}
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	wrong(err != nil, "ADDR", "%q is not host:port", cfg.Addr)
	open := cfg.JWTSecret == "" && cfg.JWTPublicKey == "" && cfg.JWKSURL == "" && len(cfg.APIKeys) == 0
	wrong(err == nil && open && !isLoopback(host) && !cfg.DangerouslyOpen, "ADDR",
		"%q can be reached from other machines, and without credentials anybody there could read and publish everything; set %[2]sJWT_SECRET, %[2]sJWT_PUBLIC_KEY, %[2]sJWKS_URL or %[2]sAPI_KEYS, listen on 127.0.0.1, or set %[2]sDANGEROUSLY_OPEN=true", cfg.Addr, envPrefix)
	return cfg, errors.Join(errs...)
}

// nameVariables turns the library's words, which name our struct's fields and
// repeat the value, into the variables' names.
func nameVariables(err error) error {
	var aggregate env.AggregateError
	if !errors.As(err, &aggregate) {
		return err
	}
	var errs []error
	for _, err := range aggregate.Errors {
		var parse env.ParseError
		if errors.As(err, &parse) {
			if field, ok := reflect.TypeFor[Config]().FieldByName(parse.Name); ok {
				err = fmt.Errorf("%s%s: is not a valid %s", envPrefix, field.Tag.Get("env"), kindName(field.Type))
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
	case reflect.TypeFor[slog.Level]():
		return "level: debug, info, warn or error"
	case reflect.TypeFor[bool]():
		return "truth value: true or false"
	}
	return "whole number"
}

// unknownVariables are those with our prefix that mean nothing, such as a misspelt one.
func unknownVariables(environ []string) (unknown []string) {
	params, _ := env.GetFieldParamsWithOptions(&Config{}, env.Options{Prefix: envPrefix})
	for _, line := range environ {
		name, _, _ := strings.Cut(line, "=")
		known := slices.ContainsFunc(params, func(p env.FieldParams) bool { return p.Key == name })
		if strings.HasPrefix(name, envPrefix) && !known {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

const usage = `Usage:

  realtimehub               serve; settings are environment variables, see README.md
  realtimehub doctor URL    say what stands between this machine and a hub; doctor -h explains
  realtimehub -health

`

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	health := flag.Bool("health", false, "ask the hub at REALTIME_ADDR whether it is alive, and exit 0 or 1")
	flag.Parse()
	if *health {
		os.Exit(checkHealth(cmp.Or(os.Getenv(envPrefix+"ADDR"), "127.0.0.1:8080"), os.Getenv(envPrefix+"TLS_CERT") != ""))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends at once
	switch flag.Arg(0) {
	case "":
	case "doctor":
		os.Exit(doctor.Command(ctx, flag.Args()[1:], os.Getenv, os.Stdout, os.Stderr))
	default:
		flag.Usage()
		os.Exit(2)
	}
	uuid.EnableRandPool() // a system call for 16 ids, not for each
	if err := run(ctx, os.Environ(), os.Stderr, nil); err != nil {
		fmt.Fprintln(os.Stderr, "realtimehub:", err)
		os.Exit(1)
	}
}

// checkHealth is the container's health check, which has no shell.
func checkHealth(addr string, secure bool) int {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 1
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
		return 1
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

// Times that a client has; streams and NDJSON bodies lift the request's.
const (
	headerTimeout  = 5 * time.Second // the TLS handshake's too
	requestTimeout = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	pingTimeout    = 15 * time.Second // of a silent HTTP/2 connection, then of its answer
)

// newServer speaks HTTP/1.1 and HTTP/2: over TLS where there is a certificate, else
// in clear text, which HTTP/2 proxies know beforehand (RFC 9113, section 3.3).
func newServer(handler http.Handler, certificate *Certificate, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           handler,
		ConnContext:       sse.ConnContext,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250, SendPingTimeout: pingTimeout, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout,
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	if certificate != nil {
		protocols.SetHTTP2(true)
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.Get}
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	return server
}

// shutdownTimeout is how long requests in flight may take once streams ended.
const shutdownTimeout = 10 * time.Second

// run serves until ctx ends; listening, when not nil, is told the address.
func run(ctx context.Context, environ []string, logs io.Writer, listening func(net.Addr)) error {
	cfg, err := loadConfig(environ)
	if err != nil {
		return err
	}
	logger := newLogger(cfg, logs)
	for _, name := range unknownVariables(environ) {
		logger.Warn("unknown setting", "variable", name)
	}

	quarter := quarterOfMemory()
	budget, total := quarter, min(quarter, 1<<30)
	if cfg.MemoryBudget != nil {
		budget = *cfg.MemoryBudget
	}
	if cfg.HistoryTotal != nil {
		total = *cfg.HistoryTotal
	}
	tuneMemory(budget, total)

	background, stop := context.WithCancel(context.Background())
	defer stop()
	auth, err := NewAuth(background, AuthConfig{
		Secret: cfg.JWTSecret, PublicKey: cfg.JWTPublicKey, JWKSURL: cfg.JWKSURL, Issuer: cfg.JWTIssuer, Audience: cfg.JWTAudience,
		TenantClaim: cfg.JWTTenantClaim, APIKeys: cfg.APIKeys, Origins: cfg.CORSOrigins, Logger: logger,
	})
	if err != nil {
		return errors.New(envPrefix + strings.ReplaceAll(err.Error(), "\n", "\n"+envPrefix))
	}
	var certificate *Certificate
	if cfg.TLSCert != "" {
		if certificate, err = LoadCertificate(cfg.TLSCert, cfg.TLSKey, logger); err != nil {
			return fmt.Errorf("%sTLS_CERT: %w", envPrefix, err)
		}
	}
	var resolver Resolver = OwnMembership{}
	if cfg.MembershipURL != "" {
		resolver = NewMembershipService(cfg.MembershipURL, cfg.MembershipToken)
	}
	limits := MemoryLimits{
		Events: cfg.HistoryEvents, Bytes: cfg.HistoryBytes, TTL: cfg.HistoryTTL, Total: total,
		Window: cfg.DedupeWindow, IDs: cfg.DedupeIDs,
	}
	shared, err := share(ctx, cfg, limits, logger)
	if err != nil {
		return fmt.Errorf("%sNATS_URL: %w", envPrefix, err)
	}
	defer shared.leave()
	hub := NewHub(HubConfig{
		Retry: cfg.Retry, Heartbeat: cfg.Heartbeat, StreamBuffer: cfg.StreamBuffer, MemoryBudget: budget,
		Log: shared.log, Membership: shared.membership,
		Marks: HistoryPart{
			Events: (cfg.HistoryEvents + 3) / 4, Bytes: (cfg.HistoryBytes + 3) / 4, Time: (cfg.HistoryTTL + 3) / 4,
		},
		Resolver: resolver, Logger: logger,
		Most: MostConnections{All: cfg.MaxConnections, Tenant: cfg.MaxPerTenant, Profile: cfg.MaxPerProfile},
	})
	presence := NewPresence(hub, PresenceConfig{
		IdleTimeout: cfg.IdleTimeout, Tick: cfg.PresenceTick, Grace: cfg.PresenceGrace,
		TypingTTL: cfg.TypingTTL, Audience: Audience(cfg.PresenceAudience), Burst: cfg.PresenceBurst,
	})
	cluster := NewCluster(hub, presence, shared.peers, 2*cfg.Retry)

	listener, err := sse.Listen(ctx, cfg.Addr)
	if err != nil {
		return fmt.Errorf("%sADDR: %w", envPrefix, err)
	}
	host, _, _ := net.SplitHostPort(cfg.Addr)
	rates := NewLimits(LimitsConfig{PublishRate: cfg.PublishRate, ClientRate: cfg.ClientRate})
	api := NewAPI(cluster, auth, rates, APIConfig{
		MaxEventBytes: cfg.MaxEventBytes, MaxBodyBytes: cfg.MaxBodyBytes,
		Loopback: isLoopback(host), Origins: cfg.CORSOrigins, MetricsTenants: cfg.MetricsTenants, Logger: logger,
	})
	server := newServer(api.Handler(), certificate, logger)
	scheme, serve := "http://", server.Serve
	if certificate != nil {
		scheme, serve = "https://", func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	logger.Info("listening", "url", scheme+listener.Addr().String())
	if auth.Open() {
		logger.Warn("open mode: no credentials are asked for")
	} else if n := len(cfg.JWTSecret); n > 0 && n < 32 {
		logger.Warn("the secret is short: HS256 wants 32 bytes or more (RFC 7518, section 3.2)", "variable", envPrefix+"JWT_SECRET")
	}
	if listening != nil {
		listening(listener.Addr())
	}

	go presence.Run(background)
	go sweep(background, hub, cfg.HistoryTTL)
	failed := make(chan error, 1)
	go func() { failed <- serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	logger.Info("draining")
	hub.Drain(background, cfg.Drain)
	last, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		logger.Warn("requests cut", "err", err)
		server.Close()
	}
	if err := hub.Engine().Close(last); err != nil {
		logger.Warn("streams cut", "err", err)
	}
	logger.Info("stopped")
	return nil
}

// sharing is what a hub shares with others, or has alone.
type sharing struct {
	log        Log
	membership Membership
	peers      Peers
	leave      func()
}

// brokerWait is how long the start waits for the broker.
const brokerWait = time.Minute

// share joins the other hubs on the broker, if one is configured.
func share(ctx context.Context, cfg Config, limits MemoryLimits, logger *slog.Logger) (sharing, error) {
	if cfg.NATSURL == "" {
		return sharing{log: NewMemoryLog(limits), leave: func() {}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, brokerWait)
	defer cancel()
	external := cfg.MembershipURL != ""
	broker, err := ConnectBroker(ctx, BrokerConfig{
		URL: cfg.NATSURL, Creds: cfg.NATSCreds, Prefix: cfg.NATSPrefix, Replicas: cfg.NATSReplicas,
		Limits: limits, Prepare: external, Logger: logger,
	})
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err // it repeats the URL, which may hold a secret
	}
	if err != nil {
		return sharing{}, err
	}
	s := sharing{log: broker.Log(), peers: broker.Peers(), leave: broker.Close}
	if !external {
		s.membership = broker.Membership()
	}
	return s, nil
}

// quarterOfMemory is of the machine's or of the control group's, whichever is less.
func quarterOfMemory() int64 {
	total, err := memlimit.FromSystem()
	if group, err2 := memlimit.FromCgroup(); err2 == nil && (err != nil || group < total) {
		total, err = group, nil
	}
	if err != nil {
		return 1 << 30
	}
	return int64(total / 4)
}

// tuneMemory trades memory that is there for fewer collections; as what streams
// and the history may take comes near they become frequent again. Without a bound
// nothing is traded. GOGC and GOMEMLIMIT have the last word.
func tuneMemory(budget, history int64) {
	if budget == 0 || history == 0 {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		all := budget + history
		// What Go does not count, the program itself, has to fit too.
		debug.SetMemoryLimit(all - min(max(all/16, 32<<20), all/2))
	}
}

func newLogger(cfg Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// sweep has the hub forget what has grown old, often enough for a short TTL.
func sweep(ctx context.Context, hub *Hub, ttl time.Duration) {
	every := time.Minute
	if ttl > 0 {
		every = min(every, max(ttl/8, time.Second))
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			hub.Sweep(now)
		}
	}
}
