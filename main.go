// Realtimehub delivers JSON events that services POST to people's browsers over
// Server-Sent Events, with presence and typing.
package main

import (
	"cmp"
	"context"
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

	"realtimehub/internal/sse"
)

const envPrefix = "REALTIME_"

// Config is read from the environment; the README's table is held to it by a test.
type Config struct {
	Addr             string        `env:"ADDR" envDefault:"127.0.0.1:8080"`
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
	MembershipURL    string        `env:"MEMBERSHIP_URL"`
	MembershipToken  string        `env:"MEMBERSHIP_TOKEN"`
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
	} {
		wrong(n.n < 0, n.name, "%d is negative; 0 lifts the limit", n.n)
	}
	wrong(cfg.MemoryBudget != nil && *cfg.MemoryBudget < 0, "MEMORY_BUDGET", "is negative; 0 lifts the limit")
	wrong(cfg.HistoryTotal != nil && *cfg.HistoryTotal < 0, "HISTORY_TOTAL_BYTES", "is negative; 0 lifts the limit")
	audiences := []string{string(AudienceTenant), string(AudienceShared), string(AudienceNone)}
	wrong(!slices.Contains(audiences, cfg.PresenceAudience), "PRESENCE_AUDIENCE", "%q is not tenant, shared or none", cfg.PresenceAudience)
	wrong(cfg.LogFormat != "text" && cfg.LogFormat != "json", "LOG_FORMAT", "%q is not text or json", cfg.LogFormat)
	if cfg.MembershipURL != "" {
		u, err := url.Parse(cfg.MembershipURL)
		wrong(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "",
			"MEMBERSHIP_URL", "is not an http or https URL without query")
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	wrong(err != nil, "ADDR", "%q is not host:port", cfg.Addr)
	wrong(err == nil && !isLoopback(host) && !cfg.DangerouslyOpen, "ADDR",
		"%q can be reached from other machines, and without credentials anybody there could read and publish everything; listen on 127.0.0.1, or set %sDANGEROUSLY_OPEN=true", cfg.Addr, envPrefix)
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

func main() {
	health := flag.Bool("health", false, "ask the hub at REALTIME_ADDR whether it is alive, and exit 0 or 1")
	flag.Parse()
	if *health {
		os.Exit(checkHealth(cmp.Or(os.Getenv(envPrefix+"ADDR"), "127.0.0.1:8080")))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends at once
	if err := run(ctx, os.Environ(), os.Stderr, nil); err != nil {
		fmt.Fprintln(os.Stderr, "realtimehub:", err)
		os.Exit(1)
	}
}

// checkHealth is the container's health check, which has no shell.
func checkHealth(addr string) int {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 1
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	client := http.Client{Timeout: 3 * time.Second}
	res, err := client.Get("http://" + net.JoinHostPort(host, port) + "/healthz")
	if err != nil {
		return 1
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

// requestTimeout is how long a client has for a request that ends.
const requestTimeout = 30 * time.Second

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
	uuid.EnableRandPool() // a system call for 16 ids, not for each

	quarter := quarterOfMemory()
	budget, total := quarter, min(quarter, 1<<30)
	if cfg.MemoryBudget != nil {
		budget = *cfg.MemoryBudget
	}
	if cfg.HistoryTotal != nil {
		total = *cfg.HistoryTotal
	}
	tuneMemory(budget, total)

	var resolver Resolver = OwnMembership{}
	if cfg.MembershipURL != "" {
		resolver = NewMembershipService(cfg.MembershipURL, cfg.MembershipToken)
	}
	hub := NewHub(HubConfig{
		Retry: cfg.Retry, Heartbeat: cfg.Heartbeat, StreamBuffer: cfg.StreamBuffer, MemoryBudget: budget,
		Log: NewMemoryLog(MemoryLimits{
			Events: cfg.HistoryEvents, Bytes: cfg.HistoryBytes, TTL: cfg.HistoryTTL, Total: total,
			Window: cfg.DedupeWindow, IDs: cfg.DedupeIDs,
		}),
		Marks: HistoryPart{
			Events: (cfg.HistoryEvents + 3) / 4, Bytes: (cfg.HistoryBytes + 3) / 4, Time: (cfg.HistoryTTL + 3) / 4,
		},
		Resolver: resolver, Logger: logger,
	})
	presence := NewPresence(hub, PresenceConfig{
		IdleTimeout: cfg.IdleTimeout, Tick: cfg.PresenceTick, Grace: cfg.PresenceGrace,
		TypingTTL: cfg.TypingTTL, Audience: Audience(cfg.PresenceAudience), Burst: cfg.PresenceBurst,
	})

	listener, err := sse.Listen(ctx, cfg.Addr)
	if err != nil {
		return fmt.Errorf("%sADDR: %w", envPrefix, err)
	}
	host, _, _ := net.SplitHostPort(cfg.Addr)
	api := NewAPI(hub, presence, APIConfig{
		MaxEventBytes: cfg.MaxEventBytes, MaxBodyBytes: cfg.MaxBodyBytes,
		Loopback: isLoopback(host), Logger: logger,
	})
	server := &http.Server{
		Handler:           api.Handler(),
		ConnContext:       sse.ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       requestTimeout, // streams and NDJSON lift it
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	logger.Info("listening", "url", "http://"+listener.Addr().String())
	logger.Warn("open mode: no credentials are asked for")
	if listening != nil {
		listening(listener.Addr())
	}

	background, stop := context.WithCancel(context.Background())
	defer stop()
	go presence.Run(background)
	go sweep(background, hub, cfg.HistoryTTL)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
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
		debug.SetMemoryLimit(budget + history)
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
