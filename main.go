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
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/backup"
	"realtimehub/internal/delivery"
	"realtimehub/internal/doctor"
	"realtimehub/internal/inquiry"
	"realtimehub/internal/lobby"
	"realtimehub/internal/overload"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
	"realtimehub/internal/tcp"
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
	case help || flag.Arg(0) == "help":
		settings.PrintHelp(os.Stdout, readme)
		return
	case about:
		fmt.Println(settings.Version())
		return
	case health:
		err := serve.CheckHealth(cmp.Or(os.Getenv(settings.Prefix+"ADDR"), "127.0.0.1:8080"), os.Getenv(settings.Prefix+"TLS_CERT") != "")
		if err != nil {
			err = fmt.Errorf("not healthy: %w", err)
		}
		end(err)
	}
	ctx := serve.UntilSignal()
	switch flag.Arg(0) {
	case "":
	case "doctor":
		os.Exit(doctor.Command(ctx, flag.Args()[1:], os.Getenv, os.Stdout, os.Stderr))
	case "why", "outbox":
		end(inquiry.Command(ctx, flag.Arg(0), flag.Args()[1:], os.Getenv, os.Stdout, os.Stderr))
	case "backup", "restore":
		end(backup.Command(ctx, flag.Arg(0), flag.Args()[1:], os.Environ(), os.Stdout))
	default:
		misused(fmt.Sprintf("unknown command %q", flag.Arg(0)))
	}
	uuid.EnableRandPool() // a system call for 16 ids, not for each
	end(run(ctx, os.Environ(), os.Stderr, nil))
}

// end ends a process that did what it was to do, or could not.
func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "realtimehub:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// misused ends a process that was not called as it can be.
func misused(why string) {
	fmt.Fprintf(os.Stderr, "realtimehub: %s\n\n%s", why, settings.Usage)
	os.Exit(2)
}

// Times of an end.
const (
	shutdownTimeout = 10 * time.Second // of requests in flight, once streams ended
	publishTimeout  = 5 * time.Second  // of publishes in flight, that streams wait for
	quietTimeout    = time.Second      // of connections without a request, once all is answered
)

// app is a hub from its settings to its end.
type app struct {
	cfg    settings.Config
	logger *slog.Logger
	memory plan.Memory

	background context.Context // ends with the program
	stop       context.CancelFunc
	judging    sync.WaitGroup // of what is owed, until background ends: it needs the store

	auth        *access.Auth
	certificate *serve.Certificate // nil: no TLS
	services    *serve.ClientCAs   // nil: services show no certificate
	quotas      *allowance.Pools
	backing     backing
	hub         *Hub
	api         *api
	servers     serve.Endpoints // where everybody calls, then, where that is set, services and operators
}

// run serves until ctx ends; listening, when not nil, is told the address.
func run(ctx context.Context, environ []string, logs io.Writer, listening func(net.Addr)) error {
	a, err := configure(environ, logs)
	if err != nil {
		return err
	}
	defer a.stop()
	if err := a.openKeys(); err != nil {
		return err
	}
	if err := a.build(ctx); err != nil {
		return err
	}
	defer a.backing.leave()
	defer a.judging.Wait()
	defer a.stop()
	if err := a.listen(ctx); err != nil {
		return err
	}
	if listening != nil {
		listening(a.servers[0].Listener.Addr())
	}
	defer a.hub.Tell(a.background, a.cfg)()
	broken, err := a.serve(ctx)
	if err != nil {
		return err
	}
	a.drain(a.hub.cluster.Alone() || context.Cause(ctx) == serve.ErrInterrupted)
	return broken
}

// configure reads the settings.
func configure(environ []string, logs io.Writer) (*app, error) {
	cfg, err := settings.Load(environ)
	if err != nil {
		return nil, err
	}
	a := &app{cfg: cfg, logger: settings.NewLogger(cfg, logs), memory: cfg.Memory()}
	cfg.Warn(environ, a.logger)
	a.memory.Tune(a.logger)
	a.background, a.stop = context.WithCancel(context.Background())
	return a, nil
}

// openKeys reads what credentials are proven with, and certificates; and again at SIGHUP.
func (a *app) openKeys() (err error) {
	credentials := a.cfg.Access()
	credentials.Logger = a.logger
	if a.auth, err = access.NewAuth(a.background, credentials); err != nil {
		return errors.New(settings.Prefix + strings.ReplaceAll(err.Error(), "\n", "\n"+settings.Prefix))
	}
	if a.cfg.TLSCert != "" {
		if a.certificate, err = serve.LoadCertificate(a.cfg.TLSCert, a.cfg.TLSKey, a.logger); err != nil {
			return fmt.Errorf("%sTLS_CERT: %w", settings.Prefix, err)
		}
	}
	if a.cfg.TLSClientCA != "" {
		if a.services, err = serve.LoadClientCAs(a.cfg.TLSClientCA, a.logger); err != nil {
			return fmt.Errorf("%sTLS_CLIENT_CA: %w", settings.Prefix, err)
		}
	}
	serve.OnHangup(a.background, func() {
		a.auth.Reread()
		if a.certificate != nil {
			a.certificate.Reload()
		}
		if a.services != nil {
			a.services.Reload()
		}
	}, a.logger)
	return nil
}

// build makes the hub on its store, which it joins.
func (a *app) build(ctx context.Context) (err error) {
	cfg := a.cfg
	a.quotas = allowance.New(a.memory)
	var resolver room.Resolver = room.Own{}
	if cfg.MembershipURL != "" {
		resolver = room.NewService(room.ServiceConfig{URL: cfg.MembershipURL, Token: cfg.MembershipToken, State: a.quotas.State})
	}
	if a.backing, err = openStore(ctx, cfg, a.memory.History, a.quotas, a.logger); err != nil {
		return err
	}
	a.hub = NewHub(HubConfig{
		Retry: cfg.Retry, Heartbeat: cfg.Heartbeat, StreamBuffer: cfg.StreamBuffer, MemoryBudget: a.memory.Streams,
		Log: a.backing.log, Rooms: a.backing.rooms, Resolver: resolver, Logger: a.logger,
		Most:       delivery.Limits{All: cfg.MaxConnections, Tenant: cfg.MaxPerTenant, Profile: cfg.MaxPerProfile},
		AckTimeout: cfg.AckTimeout, Quotas: a.quotas, Memberships: cfg.MaxMemberships, Memory: overload.GoMemory(),
	}, PresenceConfig{
		IdleTimeout: cfg.IdleTimeout, Tick: cfg.PresenceTick, Grace: cfg.PresenceGrace,
		TypingTTL: cfg.TypingTTL, Audience: cfg.PresenceAudience, Burst: cfg.PresenceBurst, Settle: settleTime,
	}, a.backing.peers, a.backing.told)
	return nil
}

// listen opens the addresses where the hub is called, and says so.
func (a *app) listen(ctx context.Context) error {
	cfg := a.cfg
	outer, err := tcp.Listen(ctx, cfg.Addr)
	if err != nil {
		return serve.CannotListen(settings.Prefix+"ADDR", err)
	}
	var inner net.Listener // where services and operators call; nil: at outer too
	if cfg.AdminAddr != "" {
		if inner, err = tcp.Listen(ctx, cfg.AdminAddr); err != nil {
			return serve.CannotListen(settings.Prefix+"ADMIN_ADDR", err)
		}
	}
	strangers := lobby.New(lobby.Config{
		All: lobby.Most(a.memory.Calls), Address: cfg.MaxPerAddress, Proxies: cfg.Proxies(),
		Answer: serve.RequestTimeout + serve.AnswerTime, Logger: a.logger,
	})
	a.api = a.newAPI(strangers)
	a.servers = a.endpoints(outer, inner, strangers)
	a.announce()
	return nil
}

// newAPI makes the HTTP side of the hub, whose connections come through a lobby.
func (a *app) newAPI(strangers *lobby.Lobby) *api {
	cfg := a.cfg
	host, _, _ := net.SplitHostPort(cfg.Addr)
	rates := access.NewRates(access.RatesConfig{PublishRate: cfg.PublishRate, ClientRate: cfg.ClientRate, AdminRate: cfg.AdminRate, Quotas: a.quotas})
	return NewAPI(a.hub, a.auth, rates, APIConfig{
		MaxEventBytes: cfg.MaxEventBytes, MaxBodyBytes: cfg.MaxBodyBytes, Lobby: strangers, Loopback: access.IsLoopback(host),
		MetricsTenants: cfg.MetricsTenants, Secrets: cfg.SharedSecrets(), Logger: a.logger,
	})
}

// endpoints serve the outer address and, where there is one, the inner.
func (a *app) endpoints(outer, inner net.Listener, strangers *lobby.Lobby) serve.Endpoints {
	handler := a.api.Handler()
	if inner != nil {
		handler = a.api.PublicHandler()
	}
	server := serve.NewServer(handler, a.certificate, a.api.ErrorLog())
	strangers.Guard(server) // the inner one is for the trusted
	servers := serve.Endpoints{{Listener: strangers.Listener(outer), Server: server}}
	if inner != nil {
		server = serve.NewServer(a.api.Handler(), a.certificate, a.api.ErrorLog())
		servers = append(servers, serve.Endpoint{Listener: inner, Server: server})
	}
	if a.services != nil { // browsers are asked for no certificate where services have an address of their own
		a.services.Require(server.TLSConfig, inner != nil)
	}
	return servers
}

// announce says where the hub is called.
func (a *app) announce() {
	a.logger.Info("listening", "url", a.servers[0].URL())
	if len(a.servers) > 1 {
		a.logger.Info("listening for services and operators", "url", a.servers[1].URL())
	}
	if a.auth.Open() {
		a.logger.Warn("open mode: no credentials are required")
		if slices.ContainsFunc(a.cfg.CORSOrigins, func(origin string) bool { return !access.IsOnLoopback(origin) }) {
			a.logger.Warn("open mode: pages of other machines are refused even if their origins are listed", "variable", settings.Prefix+"CORS_ORIGINS")
		}
	}
}

// serve answers until ctx ends, or the broker cannot be reached any more, which is broken:
// who starts the process again has another. An error is of an address.
func (a *app) serve(ctx context.Context) (broken, err error) {
	go a.hub.presence.Run(a.background)
	a.judging.Go(func() { a.hub.duties.Run(a.background) })
	go sweep(a.background, a.hub, a.cfg.HistoryTTL)
	go a.hub.WatchMemory(a.background)
	go plan.GiveBack(a.background)
	failed := make(chan error, len(a.servers))
	for _, e := range a.servers {
		go func() { failed <- e.Serve() }()
	}
	select {
	case err := <-failed:
		return nil, err
	case err := <-a.backing.over:
		return fmt.Errorf("the connection to the store has ended for good: %w", err), nil
	case <-ctx.Done():
		return nil, nil
	}
}

// drain ends streams and answers what is under way. Clients are sent away little by little,
// to other hubs; or all at once where there is none, or somebody waits for the end.
func (a *app) drain(atOnce bool) {
	over := a.cfg.Drain
	if atOnce {
		over = 0
	}
	streams := a.hub.streams
	a.logger.Info("draining; a second signal stops the hub at once", "streams", streams.Engine().Streams(), "over", over)
	if !atOnce {
		streams.Drain(a.background, over)
	}
	streams.Refuse()
	last, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- a.servers.Shutdown(last) }() // nobody can connect from now on
	if atOnce {
		publishes, cancel := context.WithTimeout(last, publishTimeout)
		a.api.Published(publishes) // streams are to have it
		cancel()
		streams.Drain(a.background, 0)
	}
	go func() {
		a.api.Answered(last)
		select {
		case <-time.After(quietTimeout):
			a.servers.Close() // Shutdown would give 5 s to a connection that has not asked for anything
		case <-last.Done():
		}
	}()
	if err := <-shut; err != nil {
		a.logger.Warn("requests were cut off at shutdown", "err", err)
		a.servers.Close()
	}
	if err := streams.Engine().Close(last); err != nil {
		a.logger.Warn("streams were cut off at shutdown", "err", err)
	}
	a.logger.Info("stopped")
}

// readme has the one table of settings, which a test holds to Config.
//
//go:embed README.md
var readme string
