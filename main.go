// Realtimehub delivers JSON events that services POST to people's browsers over
// Server-Sent Events, with presence and typing.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/doctor"
	"realtimehub/internal/engine"
	"realtimehub/internal/history"
	"realtimehub/internal/lobby"
	"realtimehub/internal/overload"
	"realtimehub/internal/plan"
	"realtimehub/internal/reserve"
	"realtimehub/internal/room"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
)

func main() {
	var health, help, about bool
	flag.BoolVar(&health, "health", false, "")
	flag.BoolVar(&about, "version", false, "")
	flag.BoolVar(&help, "help", false, "") // declared, so that what was asked for goes to stdout
	flag.BoolVar(&help, "h", false, "")
	flag.CommandLine.Init("", flag.ContinueOnError)
	flag.CommandLine.SetOutput(io.Discard) // it would say its own
	if err := flag.CommandLine.Parse(os.Args[1:]); err != nil {
		misused(err.Error())
	}
	switch {
	case help:
		settings.PrintHelp(os.Stdout, readme)
		return
	case about:
		fmt.Println(settings.Version())
		return
	case health:
		if err := serve.CheckHealth(cmp.Or(os.Getenv(settings.Prefix+"ADDR"), "127.0.0.1:8080"), os.Getenv(settings.Prefix+"TLS_CERT") != ""); err != nil {
			fmt.Fprintln(os.Stderr, "realtimehub: not healthy:", err)
			os.Exit(1)
		}
		return
	}
	ctx := untilSignal()
	switch flag.Arg(0) {
	case "":
	case "doctor":
		os.Exit(doctor.Command(ctx, flag.Args()[1:], os.Getenv, os.Stdout, os.Stderr))
	default:
		misused(fmt.Sprintf("unknown command %q", flag.Arg(0)))
	}
	uuid.EnableRandPool() // a system call for 16 ids, not for each
	if err := run(ctx, os.Environ(), os.Stderr, nil); err != nil {
		fmt.Fprintln(os.Stderr, "realtimehub:", err)
		os.Exit(1)
	}
}

// misused ends a process that was not called as it can be.
func misused(why string) {
	fmt.Fprintf(os.Stderr, "realtimehub: %s\n\n%s", why, settings.Usage)
	os.Exit(2)
}

// errInterrupted is the cause of an end by Ctrl+C: somebody waits for it.
var errInterrupted = errors.New("interrupted")

// untilSignal ends with the first signal to end; a second one ends the process at once.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		first := <-signals
		signal.Stop(signals)
		if first == os.Interrupt {
			cancel(errInterrupted)
		} else {
			cancel(nil)
		}
	}()
	return ctx
}

// onHangup reads again what is in files each time the process is told to (SIGHUP), until
// ctx ends.
func onHangup(ctx context.Context, reread func(), logger *slog.Logger) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				logger.Info("SIGHUP: what is in files is read again; settings in the environment need a restart")
				reread()
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Times of an end.
const (
	shutdownTimeout = 10 * time.Second // of requests in flight, once streams ended
	publishTimeout  = 5 * time.Second  // of publishes in flight, that streams wait for
	quietTimeout    = time.Second      // of connections without a request, once all is answered
)

// run serves until ctx ends; listening, when not nil, is told the address.
func run(ctx context.Context, environ []string, logs io.Writer, listening func(net.Addr)) error {
	cfg, err := settings.Load(environ)
	if err != nil {
		return err
	}
	logger := settings.NewLogger(cfg, logs)
	for _, name := range settings.Unknown(environ) {
		logger.Warn("unknown setting, which changes nothing: realtimehub -help lists all", "variable", name)
	}
	for _, why := range cfg.Misfits(environ) {
		logger.Warn("settings do not fit together", "why", why)
	}

	memory := cfg.Memory()
	tuneMemory(memory, logger)

	background, stop := context.WithCancel(context.Background())
	defer stop()
	credentials := cfg.Access()
	credentials.Logger = logger
	auth, err := access.NewAuth(background, credentials)
	if err != nil {
		return errors.New(settings.Prefix + strings.ReplaceAll(err.Error(), "\n", "\n"+settings.Prefix))
	}
	var certificate *serve.Certificate
	if cfg.TLSCert != "" {
		if certificate, err = serve.LoadCertificate(cfg.TLSCert, cfg.TLSKey, logger); err != nil {
			return fmt.Errorf("%sTLS_CERT: %w", settings.Prefix, err)
		}
	}
	var services *serve.ClientCAs
	if cfg.TLSClientCA != "" {
		if services, err = serve.LoadClientCAs(cfg.TLSClientCA, logger); err != nil {
			return fmt.Errorf("%sTLS_CLIENT_CA: %w", settings.Prefix, err)
		}
	}
	onHangup(background, func() {
		auth.Reread()
		if certificate != nil {
			certificate.Reload()
		}
		if services != nil {
			services.Reload()
		}
	}, logger)
	quotas := allowance.New(memory)
	var resolver room.Resolver = room.Own{}
	if cfg.MembershipURL != "" {
		resolver = room.NewService(room.ServiceConfig{URL: cfg.MembershipURL, Token: cfg.MembershipToken, State: quotas.State})
	}
	limits := history.Limits{
		Events: cfg.HistoryEvents, Bytes: cfg.HistoryBytes, TTL: cfg.HistoryTTL, Total: memory.History,
		Window: cfg.DedupeWindow, IDs: history.MostIDs(cfg.DedupeIDs, quotas.IDs), Held: quotas.IDs,
	}
	shared, err := share(ctx, cfg, limits, logger)
	if err != nil {
		return err
	}
	defer shared.leave()
	hub := NewHub(HubConfig{
		Retry: cfg.Retry, Heartbeat: cfg.Heartbeat, StreamBuffer: cfg.StreamBuffer, MemoryBudget: memory.Streams,
		Log: shared.log, Rooms: shared.rooms, Resolver: resolver, Logger: logger,
		Most:   MostConnections{All: cfg.MaxConnections, Tenant: cfg.MaxPerTenant, Profile: cfg.MaxPerProfile},
		Quotas: quotas, Memberships: cfg.MaxMemberships, Memory: overload.GoMemory(),
	})
	presence := NewPresence(hub, PresenceConfig{
		IdleTimeout: cfg.IdleTimeout, Tick: cfg.PresenceTick, Grace: cfg.PresenceGrace,
		TypingTTL: cfg.TypingTTL, Audience: cfg.PresenceAudience, Burst: cfg.PresenceBurst,
	})
	cluster := NewCluster(hub, presence, shared.peers, 2*cfg.Retry)

	listener, err := engine.Listen(ctx, cfg.Addr)
	if err != nil {
		return cannotListen("ADDR", err)
	}
	var inner net.Listener // where services and operators call; nil: at listener too
	if cfg.AdminAddr != "" {
		if inner, err = engine.Listen(ctx, cfg.AdminAddr); err != nil {
			return cannotListen("ADMIN_ADDR", err)
		}
	}
	host, _, _ := net.SplitHostPort(cfg.Addr)
	rates := access.NewRates(access.RatesConfig{PublishRate: cfg.PublishRate, ClientRate: cfg.ClientRate, AdminRate: cfg.AdminRate, Quotas: quotas})
	strangers := lobby.New(lobby.Config{
		All: mostStrangers(memory), Address: cfg.MaxPerAddress, Proxies: cfg.Proxies(),
		Answer: serve.RequestTimeout + serve.AnswerTime, Logger: logger,
	})
	api := NewAPI(cluster, auth, rates, APIConfig{
		MaxEventBytes: cfg.MaxEventBytes, MaxBodyBytes: cfg.MaxBodyBytes, Lobby: strangers,
		Loopback: access.IsLoopback(host), MetricsTenants: cfg.MetricsTenants, Logger: logger,
	})
	outer := api.Handler()
	if inner != nil {
		outer = api.PublicHandler()
	}
	servers := serve.Endpoints{{Listener: listener, Server: serve.NewServer(outer, certificate, api.ErrorLog())}}
	if inner != nil {
		servers = append(servers, serve.Endpoint{Listener: inner, Server: serve.NewServer(api.Handler(), certificate, api.ErrorLog())})
	}
	strangers.Guard(servers[0].Server) // the other door is for the trusted
	servers[0].Listener = strangers.Listener(listener)
	if services != nil { // browsers are asked for no certificate where services have a door of their own
		services.Require(servers[len(servers)-1].Server.TLSConfig, inner != nil)
	}
	logger.Info("listening", "url", servers[0].URL())
	if inner != nil {
		logger.Info("listening for services and operators", "url", servers[1].URL())
	}
	if auth.Open() {
		logger.Warn("open mode: no credentials are asked for")
		if slices.ContainsFunc(cfg.CORSOrigins, func(origin string) bool { return !access.IsOnLoopback(origin) }) {
			logger.Warn("open mode: pages of origins that are not on loopback are refused all the same", "variable", settings.Prefix+"CORS_ORIGINS")
		}
	}
	if listening != nil {
		listening(listener.Addr())
	}

	go presence.Run(background)
	go sweep(background, hub, cfg.HistoryTTL)
	go hub.WatchMemory(background)
	go plan.GiveBack(background)
	failed := make(chan error, len(servers))
	for _, d := range servers {
		go func() { failed <- d.Serve() }()
	}
	var broken error
	select {
	case err := <-failed:
		return err
	case err := <-shared.over: // whoever starts the process again has another
		broken = fmt.Errorf("the connection to NATS has ended for good: %w", err)
	case <-ctx.Done():
	}
	atOnce := cluster.Alone() || context.Cause(ctx) == errInterrupted
	over := cfg.Drain
	if atOnce {
		over = 0
	}
	logger.Info("draining; a second signal ends at once", "streams", hub.Engine().Streams(), "over", over)
	if !atOnce {
		hub.Drain(background, over)
	}
	hub.Refuse()
	last, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- servers.Shutdown(last) }() // nobody can connect from now on
	if atOnce {
		publishes, cancel := context.WithTimeout(last, publishTimeout)
		api.Published(publishes) // streams are to have it
		cancel()
		hub.Drain(background, 0)
	}
	go func() {
		api.Answered(last)
		select {
		case <-time.After(quietTimeout):
			servers.Close() // Shutdown would give 5 s to a connection that has not asked for anything
		case <-last.Done():
		}
	}()
	if err := <-shut; err != nil {
		logger.Warn("requests cut", "err", err)
		servers.Close()
	}
	if err := hub.Engine().Close(last); err != nil {
		logger.Warn("streams cut", "err", err)
	}
	logger.Info("stopped")
	return broken
}

// cannotListen says of which setting an address is, and what most often is wrong with it.
func cannotListen(setting string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "; another program has this port, perhaps a hub that was started before: end it, or set another"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "; give one of this machine's, or none for all (:8080)"
	case errors.Is(err, syscall.EACCES):
		remedy = "; ports below 1024 take a privilege: set another"
	}
	return fmt.Errorf("%s%s: %w%s", settings.Prefix, setting, err, remedy)
}

// backing is what a hub stands on, alone or with others.
type backing struct {
	log   history.Log
	rooms room.Shared
	peers Peers
	over  <-chan error // has why others cannot be reached any more
	leave func()
}

// brokerWait is how long the start waits for the broker.
const brokerWait = time.Minute

// share joins the other hubs on the broker, if one is configured.
func share(ctx context.Context, cfg settings.Config, limits history.Limits, logger *slog.Logger) (backing, error) {
	if cfg.NATSURL == "" {
		return backing{log: history.NewMemory(limits), leave: func() {}}, nil
	}
	if cfg.NATSCreds != "" {
		if _, err := os.ReadFile(cfg.NATSCreds); err != nil {
			return backing{}, fmt.Errorf("%sNATS_CREDS: %w", settings.Prefix, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, brokerWait)
	defer cancel()
	external := cfg.MembershipURL != ""
	broker, err := ConnectBroker(ctx, BrokerConfig{
		URL: cfg.NATSURL, Creds: cfg.NATSCreds, Prefix: cfg.NATSPrefix, Replicas: cfg.NATSReplicas,
		Limits: limits, Disk: cfg.Disk(), Prepare: external, Logger: logger,
	})
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err // it repeats the URL, which may hold a secret
	}
	if err != nil {
		return backing{}, fmt.Errorf("%sNATS_URL: %w", settings.Prefix, err)
	}
	s := backing{log: broker.Log(), peers: broker.Peers(), over: broker.Over(), leave: broker.Close}
	if !external {
		s.rooms = broker.Rooms()
	}
	return s, nil
}

// tuneMemory trades memory that is there for fewer collections; as what is kept comes
// near the plan they become frequent again. Without a bound nothing is traded. GOGC and
// GOMEMLIMIT have the last word.
func tuneMemory(memory plan.Memory, logger *slog.Logger) {
	if limit := memory.GoLimit(); limit > 0 {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(400)
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(limit)
		}
	}
	if limit, least := debug.SetMemoryLimit(-1), memory.Least(); limit < least {
		logger.Warn("GOMEMLIMIT is too low for what histories and state may take: once they are full, an overload may not end", "limit", limit, "needed", least)
	}
}

// strangerBytes is what a connection that has proven nothing may cost, headers, buffers
// and its goroutine together.
const strangerBytes = 48 << 10

// mostStrangers is for how many connections that have proven nothing there is memory, and
// descriptors: of those streams have at least half; 0: any number.
func mostStrangers(memory plan.Memory) int {
	most := int(memory.Calls / strangerBytes)
	if half := reserve.Outside() / 2; half > 0 && (most == 0 || half < most) {
		most = half
	}
	return most
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

// readme has the one table of settings, which a test holds to Config.
//
//go:embed README.md
var readme string
