package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/door/websocket"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/metrics"
	"realtimehub/internal/overload"
	"realtimehub/internal/pace"
	"realtimehub/internal/probe"
	"realtimehub/internal/problem"
	"realtimehub/internal/receipts"
	"realtimehub/internal/request"
	"realtimehub/internal/reserve"
	"realtimehub/internal/serve"
	"realtimehub/web"
)

// APIConfig is what the HTTP side needs to know; sizes of 0 lift the limit.
type APIConfig struct {
	MaxEventBytes  int
	MaxBodyBytes   int
	Loopback       bool         // in open mode then no web page from elsewhere gets in
	MetricsTenants int          // so many are shown by name, those with most streams
	Secrets        []string     // that all hubs share, and nobody else; none: there is no other hub
	Lobby          *lobby.Lobby // of the server's connections; nil: they are not bounded
	Logger         *slog.Logger
}

// api is every call there is: who may make it, and whose it is.
type api struct {
	// Static.
	cfg      APIConfig
	hub      *Hub
	auth     *access.Auth
	limits   *access.Rates
	metrics  *metrics.Metrics
	doctor   *probe.Server
	receipts *receipts.Server

	complaints *serve.ErrorLog // net/http's

	requests atomic.Int64 // that are being answered
	crowded  pace.Counter // calls that were refused for want of memory

	publishing     publisher
	subscribing    *subscriber
	administration administrator
}

// NewAPI makes the HTTP side of a hub.
func NewAPI(hub *Hub, auth *access.Auth, limits *access.Rates, cfg APIConfig) *api {
	cluster, people, bodies, complaints := hub.cluster, hub.people, request.Limit(cfg.MaxBodyBytes), serve.NewErrorLog(cfg.Logger)
	metrics := newMetrics(hub, auth, limits, complaints, cfg)
	return &api{
		cfg: cfg, hub: hub, auth: auth, limits: limits, metrics: metrics, complaints: complaints, doctor: probe.New(hub.streams, limits), receipts: receipts.New(hub, hub.quotas),
		publishing: publisher{
			hub: hub, auth: auth, limits: limits, metrics: metrics, bodies: bodies, maxEvent: cfg.MaxEventBytes, quotas: hub.quotas,
		},
		subscribing:    newSubscriber(hub, auth, limits, cfg),
		administration: administrator{hub, cluster, people, bodies, hub.quotas},
	}
}

// route is a call and the scope that it needs, or one of them.
type route struct {
	scope access.Scope
	do    handler
}

// routes is every call that needs a credential.
func (a *api) routes() map[string]route {
	const tenant, refresh = "/v1/tenants/{t}", "/{rooms}/{id}/members/refresh"
	return map[string]route{
		"POST /v1/events":                               {access.ScopePublish, a.publishing.events},
		"POST /v1/events/batch":                         {access.ScopePublish, a.publishing.batch},
		"POST " + tenant + "/events":                    {access.ScopePublish, a.publishing.to(event.KindTenant)},
		"POST " + tenant + "/profiles/{id}/events":      {access.ScopePublish, a.publishing.to(event.KindProfile)},
		"POST " + tenant + "/profiles/events":           {access.ScopePublish, a.publishing.to(event.KindProfiles)},
		"POST " + tenant + "/conversations/{id}/events": {access.ScopePublish, a.publishing.to(event.KindConversation)},
		"POST " + tenant + "/groups/{id}/events":        {access.ScopePublish, a.publishing.to(event.KindGroup)},
		"POST " + tenant + "/connections/{id}/events":   {access.ScopePublish, a.publishing.to(event.KindConnection)},
		streamRoute:                                      {access.ScopeSubscribe, a.subscribing.stream},
		socketRoute:                                      {access.ScopeSubscribe, a.subscribing.socket.Serve},
		"GET /v1/poll":                                   {access.ScopeSubscribe, a.subscribing.polling.Serve},
		"POST /signalr/negotiate":                        {access.ScopeSubscribe, a.subscribing.signalr.Negotiate},
		signalrRoute:                                     {access.ScopeSubscribe, a.subscribing.signalr.Open},
		"POST /signalr":                                  {access.ScopeSubscribe, a.subscribing.signalr.Send},
		"DELETE /signalr":                                {access.ScopeSubscribe, a.subscribing.signalr.End},
		doctorRoute:                                      {access.ScopeSubscribe | access.ScopePublish | access.ScopeAdmin, a.doctor.Serve},
		"POST /v1/connections/{id}/touch":                {access.ScopeSubscribe, a.subscribing.touch},
		"POST /v1/connections/{id}/ack":                  {access.ScopeSubscribe, a.subscribing.ack},
		"PATCH /v1/connections/{id}":                     {access.ScopeSubscribe, a.subscribing.adjust},
		"PUT /v1/connections/{id}/token":                 {access.ScopeSubscribe, a.subscribing.token},
		"POST /v1/conversations/{id}/typing":             {access.ScopeSubscribe, a.subscribing.typing},
		"GET /v1/presence":                               {access.ScopeSubscribe, a.subscribing.visiblePresence},
		"POST /v1/presence/query":                        {access.ScopeSubscribe, a.subscribing.visiblePresence},
		"GET " + tenant + "/connections":                 {access.ScopeAdmin, a.administration.connections},
		"DELETE " + tenant + "/connections":              {access.ScopeAdmin, a.administration.kickProfile},
		"GET " + tenant + "/connections/{id}":            {access.ScopeAdmin, a.administration.connection},
		"DELETE " + tenant + "/connections/{id}":         {access.ScopeAdmin, a.administration.kick},
		"GET " + tenant + "/events":                      {access.ScopeAdmin | access.ScopePublish, a.administration.history},
		"GET " + tenant + "/events/{id}":                 {access.ScopeAdmin | access.ScopePublish, a.receipts.Event},
		"GET " + tenant + "/events/{id}/receipts":        {access.ScopeAdmin | access.ScopePublish, a.receipts.List},
		"GET " + tenant + "/outbox":                      {access.ScopeAdmin | access.ScopePublish, a.administration.outbox},
		"GET " + tenant + "/presence":                    {access.ScopeAdmin, a.administration.tenantPresence},
		"POST " + tenant + "/presence/query":             {access.ScopeAdmin, a.administration.queryPresence},
		"GET " + tenant + "/presence/{profile}":          {access.ScopeAdmin, a.administration.profilePresence},
		"GET " + tenant + "/{rooms}/{id}/presence":       {access.ScopeAdmin, a.administration.roomPresence},
		"GET " + tenant + "/{rooms}/{id}/members":        {access.ScopeAdmin, a.administration.members},
		"PUT " + tenant + "/{rooms}/{id}/members":        {access.ScopeAdmin, a.administration.setMembers},
		"PUT " + tenant + "/{rooms}/{id}/members/{p}":    {access.ScopeAdmin, a.administration.addMember},
		"DELETE " + tenant + "/{rooms}/{id}/members/{p}": {access.ScopeAdmin, a.administration.removeMember},
		"POST " + tenant + refresh:                       {access.ScopeAdmin, a.administration.refreshMembers},
		"GET /metrics":                                   {access.ScopeAll, plain(a.metrics.ServeHTTP)},
		"GET " + serve.ProfilesAt:                        {access.ScopeAll, plain(serve.Profiles)},
	}
}

// openRoutes is every call that needs no credential, and the files of web/.
func (a *api) openRoutes() map[string]http.HandlerFunc {
	routes := map[string]http.HandlerFunc{"GET /healthz": a.healthy, "GET /readyz": a.ready, "GET /{$}": web.Page("index.html", a.cfg.Logger)}
	files, _ := web.Files.ReadDir(".")
	for _, file := range files {
		routes["GET /"+file.Name()] = web.Page(file.Name(), a.cfg.Logger)
	}
	return routes
}

// Handler serves every route there is.
func (a *api) Handler() http.Handler { return a.handler(true) }

// PublicHandler serves all but what shows or changes a tenant and what shows the
// process, which is for who runs the hub.
func (a *api) PublicHandler() http.Handler { return a.handler(false) }

func (a *api) handler(inner bool) http.Handler {
	mux, routes, probes := http.NewServeMux(), a.routes(), a.probes()
	for pattern, r := range routes {
		if !inner && (r.scope == access.ScopeAdmin || r.scope == access.ScopeAll) {
			continue
		}
		do := a.call(pattern, r)
		if examine := probes[pattern]; examine != nil {
			do = probe.ByDoctor(a.call(doctorRoute, route{routes[doctorRoute].scope, examine}), do)
		}
		mux.HandleFunc(pattern, do)
	}
	for pattern, do := range a.openRoutes() {
		mux.HandleFunc(pattern, do)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, r, a.cfg.Logger, request.NoRoute(mux, w, r))
	})
	return a.front(mux)
}

// call serves a route to those who may make the call.
func (a *api) call(pattern string, route route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if route.scope == access.ScopePublish {
			a.publishing.calls.Add(1)
			defer a.publishing.calls.Add(-1)
		}
		who, err := a.admit(r, pattern, route.scope)
		if err == nil {
			lobby.Admit(w, r)
			defer who.Vouch(r, a.hub.quotas, request.HeadBytes(r), isStream(pattern, r))()
			err = route.do(w, r, who)
		}
		if err != nil {
			a.refused(w, r, pattern, route.scope, who, err)
		}
		sent(w, r)
	}
}

// admit returns the caller, if it may make the call now. It is asked before there is a body.
func (a *api) admit(r *http.Request, pattern string, scope access.Scope) (who *access.Caller, err error) {
	if pattern == socketRoute {
		websocket.Authorize(r)
	}
	who, err = a.auth.Admit(r, scope, opensStream(pattern))
	switch {
	case err != nil:
	case scope&access.ScopeAdmin != 0 && who.Tenant() != "":
		err = a.limits.Admin(who.Tenant(), who.Holder(r))
	case scope == access.ScopePublish && a.hub.Overloaded():
		err = overload.ErrOverloaded
	}
	return who, err
}

// refused counts a call that failed, and answers it.
func (a *api) refused(w http.ResponseWriter, r *http.Request, pattern string, scope access.Scope, who *access.Caller, err error) {
	if scope == access.ScopePublish {
		a.publishing.refused(err)
	} else {
		a.auth.Refuse(err)
	}
	if !a.subscribing.refuses(w, r, pattern, err) {
		a.refuse(w, r, who, err)
	}
}

// front is what each request passes before its route is looked up.
func (a *api) front(mux *http.ServeMux) http.Handler {
	nosniff := []string{"nosniff"}
	pages := access.NewPages(a.auth, a.cfg.Loopback, a.cfg.Logger)
	serve := pages.Shared(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		defer a.requests.Add(-1)
		defer func() {
			if request.TakenBack(r) {
				lobby.TakenBack(r)
			}
		}()
		request.AbortIfReset(r)
		r, over, err := lobby.Greet(w, r)
		if err != nil {
			panic(http.ErrAbortHandler) // an answer that nobody reads would be one more
		}
		if over != nil {
			defer over()
		}
		request.DropBody(r)
		if request.TooManyHeaders(r) {
			if r.ProtoMajor > 1 {
				panic(http.ErrAbortHandler) // its head would stay as long as the answer waits
			}
			w.Header().Set("Connection", "close")
			http.Error(w, "431 Request Header Fields Too Large", http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		w.Header()["X-Content-Type-Options"] = nosniff
		if a.hub.streams.Draining() || reserve.Holds(r.Context()) {
			w.Header().Set("Connection", "close") // the next request goes to another hub, or leaves its descriptor to others
		}
		err = pages.Refuses(r)
		if err == nil && socket.Upgrades(r) {
			err = pages.RefusesSocket(r)
		}
		if err == nil && !request.IsClean(r.URL) {
			err = request.ErrNothingHere // else the mux redirects, and repeats the query with its token
		}
		if err != nil {
			a.auth.Refuse(err)
			problem.Write(w, r, a.cfg.Logger, err)
		} else {
			serve.ServeHTTP(w, r)
		}
		sent(w, r)
	})
}

// sent waits until an answer has left, or its time is over. With HTTP/2 net/http would
// send the end of it after the handler, when its request has no place any more. With
// HTTP/1.1 the connection has.
func sent(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor > 1 {
		http.NewResponseController(w).Flush() // nobody reads: nobody is to be told
	}
}

// refuse is fail for a caller that is known, or nil. Of many faults one alone is told
// where the caller has its share of the memory for answers.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, who *access.Caller, err error) {
	faults := problem.Fields(err)
	if len(faults) > 0 {
		memory := a.hub.quotas.Answer(who.Holder(r))
		defer memory.Close()
		if !memory.Use(2 * problem.FaultBytes * len(faults)) {
			err = faults[0]
		}
	}
	if errors.Is(err, problem.ErrBodies) || errors.Is(err, allowance.ErrAnswers) {
		if times, due := a.crowded.Due(time.Now()); due {
			holder := who.Holder(r)
			a.cfg.Logger.Warn("a call was refused: the caller has used up its share of memory", "err", err,
				"tenant", holder.Tenant, "profile", holder.Profile.String(), "times", times)
		}
	}
	problem.Write(w, r, a.cfg.Logger, err)
}

// ErrorLog takes what net/http has to say.
func (a *api) ErrorLog() *log.Logger { return log.New(a.complaints, "", 0) }

// Published waits until all that is being published is answered, or ctx ends. Who
// publishes later is told that it is too late.
func (a *api) Published(ctx context.Context) {
	untilNone(ctx, &a.publishing.calls)
	a.publishing.end(context.WithoutCancel(ctx))
}

// Answered is Published for all requests, streams among them that have a handler.
func (a *api) Answered(ctx context.Context) { untilNone(ctx, &a.requests) }

func (a *api) healthy(w http.ResponseWriter, r *http.Request) {
	answer.JSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *api) ready(w http.ResponseWriter, r *http.Request) {
	var not error
	if a.hub.streams.Draining() {
		not = &problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining", Detail: delivery.ErrDraining.Error()}
	} else if err := a.hub.Ready(); err != nil {
		not = &problem.Problem{Status: http.StatusServiceUnavailable, Code: "BrokerUnavailable", Detail: err.Error()}
	} else {
		not = a.auth.Ready()
	}
	if not != nil {
		problem.Write(w, r, a.cfg.Logger, not)
		return
	}
	status := "ready"
	if a.hub.Overloaded() { // it says when to come back itself, and a balancer with no hub left would not
		status = "overloaded"
	}
	answer.JSON(w, http.StatusOK, map[string]string{"status": status})
}

// handler answers for a caller whose scope and tenant are proven; an error becomes
// problem details.
type handler func(w http.ResponseWriter, r *http.Request, who *access.Caller) error

// plain makes a handler of one that needs no caller and answers its errors itself.
func plain(do http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request, _ *access.Caller) error {
		do(w, r)
		return nil
	}
}
