package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/cors"

	"realtimehub/internal/sse"
	"realtimehub/internal/strictjson"
)

//go:embed web
var web embed.FS

// APIConfig is what the HTTP side needs to know; sizes of 0 lift the limit.
type APIConfig struct {
	MaxEventBytes  int
	MaxBodyBytes   int
	Loopback       bool     // in open mode then no web page from elsewhere gets in
	Origins        []string // whose pages may call: "https://app.example.com", or "*" alone
	MetricsTenants int      // so many are shown by name, those with most streams
	Logger         *slog.Logger
}

type api struct {
	hub      *Hub
	cluster  *Cluster
	presence *Presence
	auth     *Auth
	limits   *Limits
	metrics  *Metrics
	cfg      APIConfig
	results  *spoolBudget
	doctor   *Doctor
}

// NewAPI makes the HTTP side of a hub.
func NewAPI(cluster *Cluster, auth *Auth, limits *Limits, cfg APIConfig) *api {
	metrics := NewMetrics(cluster.hub, cluster.presence, auth, limits, cfg.MetricsTenants, cfg.Logger)
	return &api{cluster.hub, cluster, cluster.presence, auth, limits, metrics, cfg, &spoolBudget{left: spoolBytes}, NewDoctor(cluster.hub)}
}

// handler answers for a caller whose scope and tenant are proven; an error becomes
// problem details.
type handler func(w http.ResponseWriter, r *http.Request, who *Caller) error

// route is a call and the scope that it needs, or one of them.
type route struct {
	scope Scope
	do    handler
}

// routes is every call that needs a credential.
func (a *api) routes() map[string]route {
	const tenant = "/v1/tenants/{t}"
	return map[string]route{
		"POST /v1/events":                               {ScopePublish, a.publish},
		"POST /v1/events/batch":                         {ScopePublish, a.publishBatch},
		"POST " + tenant + "/events":                    {ScopePublish, a.publishTo(KindTenant)},
		"POST " + tenant + "/profiles/{id}/events":      {ScopePublish, a.publishTo(KindProfile)},
		"POST " + tenant + "/profiles/events":           {ScopePublish, a.publishTo(KindProfiles)},
		"POST " + tenant + "/conversations/{id}/events": {ScopePublish, a.publishTo(KindConversation)},
		"POST " + tenant + "/groups/{id}/events":        {ScopePublish, a.publishTo(KindGroup)},
		"POST " + tenant + "/connections/{id}/events":   {ScopePublish, a.publishTo(KindConnection)},
		streamRoute:                                      {ScopeSubscribe, a.stream},
		"GET /v1/doctor":                                 {ScopeSubscribe | ScopePublish | ScopeAdmin, a.probe},
		"POST /v1/connections/{id}/touch":                {ScopeSubscribe, a.touch},
		"PATCH /v1/connections/{id}":                     {ScopeSubscribe, a.adjust},
		"PUT /v1/connections/{id}/token":                 {ScopeSubscribe, a.token},
		"POST /v1/conversations/{id}/typing":             {ScopeSubscribe, a.typing},
		"GET /v1/presence":                               {ScopeSubscribe, a.clientPresence},
		"GET " + tenant + "/connections":                 {ScopeAdmin, a.connections},
		"DELETE " + tenant + "/connections":              {ScopeAdmin, a.kickProfile},
		"GET " + tenant + "/connections/{id}":            {ScopeAdmin, a.connection},
		"DELETE " + tenant + "/connections/{id}":         {ScopeAdmin, a.kick},
		"GET " + tenant + "/events":                      {ScopeAdmin | ScopePublish, a.history},
		"GET " + tenant + "/presence":                    {ScopeAdmin, a.tenantPresence},
		"GET " + tenant + "/presence/{profile}":          {ScopeAdmin, a.profilePresence},
		"GET " + tenant + "/{rooms}/{id}/presence":       {ScopeAdmin, a.roomPresence},
		"GET " + tenant + "/{rooms}/{id}/members":        {ScopeAdmin, a.members},
		"PUT " + tenant + "/{rooms}/{id}/members":        {ScopeAdmin, a.setMembers},
		"PUT " + tenant + "/{rooms}/{id}/members/{p}":    {ScopeAdmin, a.addMember},
		"DELETE " + tenant + "/{rooms}/{id}/members/{p}": {ScopeAdmin, a.removeMember},
		"GET /metrics":                                   {ScopeAll, a.scrape},
		"GET " + profilesAt:                              {ScopeAll, a.profiles},
	}
}

// openRoutes is every call that needs no credential, and the files of web/.
func (a *api) openRoutes() map[string]http.HandlerFunc {
	routes := map[string]http.HandlerFunc{"GET /healthz": a.healthy, "GET /readyz": a.ready, "GET /{$}": page("index.html")}
	files, _ := web.ReadDir("web")
	for _, file := range files {
		routes["GET /"+file.Name()] = page(file.Name())
	}
	return routes
}

// streamRoute alone takes a token in its query, for stock EventSource.
const streamRoute = "GET /v1/stream"

// Handler serves every route there is.
func (a *api) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, route := range a.routes() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			who, err := a.auth.Admit(r, route.scope, pattern == streamRoute)
			if err == nil {
				err = route.do(w, r, who)
			}
			if err != nil {
				if route.scope == ScopePublish {
					a.refused(err)
				} else {
					a.auth.Refuse(err)
				}
				fail(w, r, a.cfg.Logger, err)
			}
		})
	}
	for pattern, do := range a.openRoutes() {
		mux.HandleFunc(pattern, do)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fail(w, r, a.cfg.Logger, noRoute(mux, w, r)) })
	nosniff := []string{"nosniff"}
	serve := a.shared(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Content-Type-Options"] = nosniff
		if a.hub.Draining() {
			w.Header().Set("Connection", "close") // the next request goes to another hub
		}
		var err error
		if a.cfg.Loopback && a.auth.Open() {
			err = fromElsewhere(r)
		}
		if err == nil && !isClean(r.URL) {
			err = errNothingHere // else the mux redirects, and repeats the query with its token
		}
		if err != nil {
			a.auth.Refuse(err)
			fail(w, r, a.cfg.Logger, err)
			return
		}
		serve.ServeHTTP(w, r)
	})
}

var errNothingHere = &problem{http.StatusNotFound, "NotFound", "there is nothing at this path"}

// isClean says whether the mux takes a path as it is.
func isClean(u *url.URL) bool {
	escaped := u.EscapedPath()
	clean := path.Clean(escaped)
	return escaped == clean || escaped == clean+"/"
}

// shared lets pages of other origins call, where some are configured: with the
// credentials that a browser adds by itself only those named, never all.
func (a *api) shared(handler http.Handler) http.Handler {
	if len(a.cfg.Origins) == 0 {
		return handler
	}
	return cors.New(cors.Options{
		AllowedOrigins:   a.cfg.Origins,
		AllowedMethods:   []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
		AllowedHeaders:   []string{"Authorization", "X-API-Key", "Content-Type", "Last-Event-ID", "X-Tenant-Id", "X-Profile-Id", "Cache-Control", "Traceparent"},
		ExposedHeaders:   []string{"Retry-After", "WWW-Authenticate"},
		AllowCredentials: !slices.Contains(a.cfg.Origins, "*"),
		MaxAge:           600,
	}).Handler(handler)
}

// noRoute tells a wrong method (405, with Allow) from a path that is not there.
func noRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		probe := *r
		probe.Method = method
		if _, pattern := mux.Handler(&probe); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return errNothingHere
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return &problem{http.StatusMethodNotAllowed, "MethodNotAllowed", "this path takes " + strings.Join(allowed, ", ")}
}

// isLoopback says whether a host is this machine and no other.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// fromElsewhere refuses, in open mode on loopback, a Host that is not this
// machine's (DNS rebinding) and what a page of another site sends.
func fromElsewhere(r *http.Request) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !isLoopback(strings.Trim(host, "[]")) {
		return errForeignHost
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
	case "": // an older browser, or none
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || !isLoopback(u.Hostname()) {
				return errForeignSite
			}
		}
	default:
		return errForeignSite
	}
	return nil
}

func mediaType(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	if header == "application/json" {
		return header, nil
	}
	kind, params, err := mime.ParseMediaType(header)
	if charset := params["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return "", errMediaType
	}
	return kind, nil
}

var errMediaType = &problem{http.StatusUnsupportedMediaType, "UnsupportedMediaType", "the body must be application/json in UTF-8"}

func (a *api) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind, err := mediaType(r); err != nil || kind != "application/json" {
		return nil, errMediaType
	}
	if n := r.ContentLength; n > 0 && n <= smallBody && (a.cfg.MaxBodyBytes <= 0 || n <= int64(a.cfg.MaxBodyBytes)) {
		body := make([]byte, n)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, errBrokeOff
		}
		return body, nil
	}
	from := io.Reader(r.Body)
	if a.cfg.MaxBodyBytes > 0 {
		from = http.MaxBytesReader(w, r.Body, int64(a.cfg.MaxBodyBytes))
	}
	body, err := io.ReadAll(from)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, errBrokeOff
	}
	return body, err
}

// smallBody is how much is made room for on a client's mere word.
const smallBody = 4 << 10

var errBrokeOff = &problem{http.StatusBadRequest, "BodyUnreadable", "the body broke off"}

func (a *api) publish(w http.ResponseWriter, r *http.Request, who *Caller) error {
	if kind, err := mediaType(r); err == nil && kind == "application/x-ndjson" {
		trace := traceOf(r)
		lines := func(ctx context.Context, lines [][]byte) ([]Receipt, []error) {
			return a.publishEach(ctx, lines, who, trace)
		}
		return publishLines(w, r, lineIntake{a.cfg.MaxBodyBytes, lines, a.refused, a.results, a.hub.Drained(), who.Expires})
	}
	return a.publishOne(w, r, who, nil)
}

// refused counts a publish call, or a line of one, that is answered with an error.
func (a *api) refused(err error) {
	a.metrics.RefusePublish(describe(err).code)
	a.auth.Refuse(err)
}

// accept hands events to the hub that the caller may publish: its one way there.
func (a *api) accept(ctx context.Context, who *Caller, events []*Event, limit func(tenant string, n int) error) ([]Receipt, error) {
	counts := map[string]int{}
	for _, e := range events {
		if !who.Reaches(e.TenantID) {
			return nil, errTenant
		}
		counts[e.TenantID]++
	}
	for tenant, n := range counts {
		if err := limit(tenant, n); err != nil {
			return nil, err
		}
	}
	return a.hub.Publish(ctx, events)
}

// publishEach publishes lines, each for itself, though together where nothing speaks
// against it. It waits where a rate limit would refuse: so the reading slows down.
func (a *api) publishEach(ctx context.Context, lines [][]byte, who *Caller, trace string) ([]Receipt, []error) {
	receipts, errs := make([]Receipt, len(lines)), make([]error, len(lines))
	var events []*Event
	var of []int // their lines
	for i, line := range lines {
		event, err := DecodeEvent(line, nil, a.cfg.MaxEventBytes)
		if errs[i] = err; err == nil {
			within(trace, event)
			events, of = append(events, event), append(of, i)
		}
	}
	wait := func(tenant string, n int) error { return a.limits.AwaitPublish(ctx, tenant, n) }
	publish := func(events []*Event, of []int) error {
		ids := make([]string, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		got, err := a.accept(ctx, who, events, wait)
		unsure, _ := errors.AsType[*UnconfirmedError](err)
		for i, n := range of {
			switch {
			case err == nil:
				receipts[n] = got[i]
			case unsure != nil:
				errs[n] = &UnconfirmedError{unsure.IDs[i : i+1], unsure.err}
			default:
				errs[n] = err
				events[i].ID = ids[i] // as its publisher gave it, to be tried again
			}
		}
		return err
	}
	if len(events) == 0 {
		return receipts, errs
	}
	err := publish(events, of)
	if unconfirmed(err) == nil && err != nil && len(events) > 1 { // nothing was stored: one of them may be why
		for i := range events {
			errs[of[i]] = nil
			publish(events[i:i+1], of[i:i+1])
		}
	}
	return receipts, errs
}

// traceOf is the trace that a request belongs to; a malformed header, or several, is
// as if there were none (W3C Trace Context, section 4.3).
func traceOf(r *http.Request) string {
	headers := r.Header["Traceparent"]
	if len(headers) != 1 {
		return ""
	}
	trace, _ := ParseTraceParent(headers[0])
	return trace
}

// within has events without a trace of their own belong to one.
func within(trace string, events ...*Event) {
	for _, e := range events {
		if e.TraceParent == "" {
			e.TraceParent = trace
		}
	}
}

func (a *api) publishOne(w http.ResponseWriter, r *http.Request, who *Caller, at *Address) error {
	body, err := a.body(w, r)
	if err != nil {
		return err
	}
	event, err := DecodeEvent(body, at, a.cfg.MaxEventBytes)
	if err != nil {
		return err
	}
	within(traceOf(r), event)
	receipts, err := a.accept(r.Context(), who, []*Event{event}, a.limits.Publish)
	if err != nil {
		return err
	}
	return replyReceipt(w, receipts[0])
}

func (a *api) publishBatch(w http.ResponseWriter, r *http.Request, who *Caller) error {
	body, err := a.body(w, r)
	if err != nil {
		return err
	}
	events, err := DecodeBatch(body, a.cfg.MaxEventBytes)
	if err != nil {
		return err
	}
	within(traceOf(r), events...)
	receipts, err := a.accept(r.Context(), who, events, a.limits.Publish)
	if err != nil {
		return err
	}
	results := make([]receipt, len(receipts))
	for i, receipt := range receipts {
		results[i] = wireReceipt(receipt)
	}
	return reply(w, http.StatusAccepted, map[string]any{"results": results})
}

// publishTo publishes to the target that the path names.
func (a *api) publishTo(kind TargetKind) handler {
	return func(w http.ResponseWriter, r *http.Request, who *Caller) error {
		var faults Faults
		at := &Address{TenantID: who.Tenant(), Target: Target{Kind: kind}}
		faults.tenant("tenantId", at.TenantID)
		switch id := r.PathValue("id"); kind {
		case KindProfile:
			at.Target = ToProfile(faults.profile("profile", id))
		case KindConversation:
			at.Target = ToConversation(id)
		case KindGroup:
			at.Target = ToGroup(id)
		case KindConnection:
			at.Target = ToConnection(id)
		}
		if err := faults.Err(); err != nil {
			return err
		}
		return a.publishOne(w, r, who, at)
	}
}

func (a *api) stream(w http.ResponseWriter, r *http.Request, who *Caller) error {
	query := r.URL.Query()
	tenant, profile, err := who.Client(r, query)
	s, err2 := subscription(query)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	s.Tenant, s.Profile, s.Expires = tenant, profile, who.Expires
	s.Cursor = either(r.Header.Get("Last-Event-ID"), query.Get("cursor"))
	if r.Method == http.MethodHead {
		sse.Header(w.Header())
		return nil
	}
	c, err := a.hub.Connect(r.Context(), s)
	if err != nil {
		// Stock EventSource gives up for good on any other answer than 200.
		last := a.hub.Engine().NewStream(func(error) {})
		last.Close(a.hub.Closing(Turned(err)))
		a.hub.Engine().Serve(w, r, last)
		return nil
	}
	a.hub.Engine().Serve(w, r, c.Stream)
	return nil
}

// probe is a stream that shows what stands between its client and the hub.
func (a *api) probe(w http.ResponseWriter, r *http.Request, who *Caller) error {
	p, err := probeOf(r.URL.Query())
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		sse.Header(w.Header())
		return nil
	}
	return a.doctor.Serve(w, r, p, who.Expires)
}

func subscription(query url.Values) (s Subscription, err error) {
	var faults Faults
	if types := query.Get("types"); types != "" {
		s.Types = faults.types("types", strings.Split(types, ","))
	}
	switch query.Get("named") {
	case "", "true":
	case "false":
		s.Unnamed = true
	default:
		faults.add(CodeInvalidField, "named", "must be true or false")
	}
	if list := query["presence"]; len(list) > 0 && list[0] != "" {
		s.Watch = watchList(&faults, "presence", list)
	}
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "meta.")
		if !ok || len(values) == 0 {
			continue
		}
		if key == "" || len(key) > 256 || len(values[0]) > 256 || checkText(key) != nil || checkText(values[0]) != nil {
			faults.add(CodeInvalidField, name, "must be text of up to 256 bytes")
			continue
		}
		if s.Metadata == nil {
			s.Metadata = map[string]string{}
		}
		s.Metadata[strings.Clone(key)] = strings.Clone(values[0])
	}
	if len(s.Metadata) > 16 {
		faults.add(CodeInvalidField, "meta", "16 keys at most")
	}
	return s, faults.Err()
}

// checkText is checkName's rule, for text that may be empty.
func checkText(s string) error { return checkName("x" + s[:min(len(s), 255)]) }

// watchList reads the profiles to watch; "none" alone is nobody, "*" as configured.
func watchList(f *Faults, field string, list []string) []ProfileRef {
	if len(list) == 1 && list[0] == "*" {
		return nil
	}
	watch := []ProfileRef{}
	if len(list) == 1 && list[0] == "none" {
		return watch
	}
	for i, text := range list {
		p := f.profile(field+"["+strconv.Itoa(i)+"]", strings.Clone(text))
		if !slices.Contains(watch, p) {
			watch = append(watch, p)
		}
	}
	if len(list) > MaxAskedProfiles {
		f.add(CodeInvalidField, field, "%d profiles at most", MaxAskedProfiles)
	}
	return watch
}

var errNoConnection = &problem{http.StatusNotFound, "ConnectionNotFound", "there is no such connection"}

// own finds the connection of a client's call, which counts as one of its profile.
func (a *api) own(r *http.Request, who *Caller) (*Connection, error) {
	c := a.cluster.Find(r.Context(), r.PathValue("id"))
	tenant, profile, own := who.Owner(c)
	if err := a.limits.Client(tenant, profile); err != nil {
		return nil, err
	}
	if !own {
		return nil, errNoConnection
	}
	return c, nil
}

func (a *api) touch(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.own(r, who)
	if err != nil {
		return err
	}
	return done(w, a.cluster.Touch(r.Context(), c))
}

// token has a stream live as long as the token of this request; in open mode
// there is nothing to prolong.
func (a *api) token(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.own(r, who)
	if err != nil {
		return err
	}
	return done(w, a.cluster.Prolong(r.Context(), c, who.Expires))
}

func (a *api) adjust(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.own(r, who)
	if err != nil {
		return err
	}
	var types **TypeFilter
	var watch *[]ProfileRef
	if err := a.object(w, r, func(f *Faults, name string, v strictjson.Value) {
		list := f.texts(CodeInvalidField, name, v)
		switch {
		case name != "types" && name != "presence":
			f.add(CodeUnknownField, name, "is not a field here")
		case list == nil:
		case name == "types":
			filter := f.types(name, list)
			types = &filter
		default:
			profiles := watchList(f, name, list)
			watch = &profiles
		}
	}); err != nil {
		return err
	}
	return done(w, a.cluster.Adjust(r.Context(), c, types, watch))
}

// done answers a call about a connection that was found, if it still was there.
func done(w http.ResponseWriter, found bool) error {
	if !found {
		return errNoConnection
	}
	return noContent(w)
}

// object reads a small body strictly, all faults at once.
func (a *api) object(w http.ResponseWriter, r *http.Request, member func(f *Faults, name string, v strictjson.Value)) error {
	body, err := a.body(w, r)
	if err != nil {
		return err
	}
	var faults Faults
	if err := strictjson.Object(body, func(name []byte, v strictjson.Value) { member(&faults, string(name), v) }); err != nil {
		return &FieldError{CodeMalformedJSON, "", -1, err.Error()}
	}
	return faults.Err()
}

func (a *api) typing(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, profile, err := who.Client(r, r.URL.Query())
	if err == nil {
		err = a.limits.Client(tenant, profile)
	}
	if err != nil {
		return err
	}
	conversation := r.PathValue("id")
	state := ""
	err = a.object(w, r, func(f *Faults, name string, v strictjson.Value) {
		if name != "state" {
			f.add(CodeUnknownField, name, "is not a field here")
			return
		}
		state = f.text(CodeInvalidField, name, v)
	})
	if err == nil && state != "started" && state != "stopped" {
		err = &FieldError{CodeInvalidField, "state", -1, "must be started or stopped"}
	}
	if bad := checkName(conversation); bad != nil {
		err = errors.Join(err, &FieldError{CodeInvalidField, "conversationId", -1, bad.Error()})
	}
	if err != nil {
		return err
	}
	if err := a.cluster.Typing(r.Context(), tenant, profile, conversation, state == "started"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func askedProfiles(f *Faults, query url.Values) []ProfileRef {
	asked := query["profile"]
	if len(asked) > MaxAskedProfiles {
		f.add(CodeInvalidField, "profile", "%d profiles at most", MaxAskedProfiles)
		return nil
	}
	profiles := make([]ProfileRef, len(asked))
	for i, text := range asked {
		profiles[i] = f.profile("profile["+strconv.Itoa(i)+"]", text)
	}
	return profiles
}

func presences(w http.ResponseWriter, list []PresenceOf) error {
	return reply(w, http.StatusOK, map[string]any{"profiles": list})
}

func (a *api) clientPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	var faults Faults
	query := r.URL.Query()
	asked := askedProfiles(&faults, query)
	tenant, viewer, err := who.Viewer(r, query)
	if err := errors.Join(err, faults.Err()); err != nil {
		return err
	}
	if err := a.limits.Client(tenant, viewer); err != nil {
		return err
	}
	if err := a.hub.Know(r.Context(), tenant); err != nil {
		return err
	}
	return presences(w, a.presence.Visible(tenant, viewer, asked))
}

// pathTenant is the tenant of an administrative call.
func pathTenant(who *Caller) (string, error) {
	var faults Faults
	tenant := who.Tenant()
	faults.tenant("tenantId", tenant)
	return tenant, faults.Err()
}

func (a *api) tenantPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	asked := askedProfiles(&faults, query)
	status := Status(query.Get("status"))
	if status != "" && status != Online && status != Away && status != Offline {
		faults.add(CodeInvalidField, "status", "must be online, away or offline")
	}
	if err := faults.Err(); err != nil {
		return err
	}
	if err := a.hub.Know(r.Context(), tenant); err != nil {
		return err
	}
	if len(asked) == 0 {
		return presences(w, a.presence.All(tenant, status))
	}
	list := a.presence.Of(tenant, asked)
	if status != "" {
		list = slices.DeleteFunc(list, func(p PresenceOf) bool { return p.Status != status })
	}
	return presences(w, list)
}

func (a *api) profilePresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	p, err := ParseProfile(r.PathValue("profile"))
	if err != nil {
		return &FieldError{CodeInvalidProfile, "profile", -1, err.Error()}
	}
	if err := a.hub.Know(r.Context(), tenant); err != nil {
		return err
	}
	return presences(w, a.presence.Of(tenant, []ProfileRef{p}))
}

// pathRoom is the tenant and the conversation or group of a path.
func pathRoom(r *http.Request, who *Caller) (tenant string, room Room, err error) {
	switch r.PathValue("rooms") {
	case "conversations":
		room.Kind = KindConversation
	case "groups":
		room.Kind = KindGroup
	default:
		return "", room, errNothingHere
	}
	var faults Faults
	tenant, room.ID = who.Tenant(), r.PathValue("id")
	faults.tenant("tenantId", tenant)
	if err := checkName(room.ID); err != nil {
		faults.add(CodeInvalidField, string(room.Kind)+"Id", "%v", err)
	}
	return tenant, room, faults.Err()
}

func (a *api) roomPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	members, err := a.hub.Members(r.Context(), tenant, room)
	if err == nil {
		err = a.hub.Know(r.Context(), tenant)
	}
	if err != nil {
		return err
	}
	return presences(w, a.presence.Of(tenant, members))
}

func (a *api) members(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	members, err := a.hub.Members(r.Context(), tenant, room)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]any{"members": append([]ProfileRef{}, members...)})
}

func (a *api) setMembers(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	var members []ProfileRef
	found := false
	err = a.object(w, r, func(f *Faults, name string, v strictjson.Value) {
		if name != "members" {
			f.add(CodeUnknownField, name, `the body has "members" only`)
			return
		}
		found = !absent(v)
		members = f.profiles(name, v)
	})
	if err == nil && !found {
		err = &FieldError{CodeInvalidField, "members", -1, "an array of profiles is needed"}
	}
	if err == nil {
		err = a.hub.SetMembers(r.Context(), tenant, room, members)
	}
	if err != nil {
		return err
	}
	return noContent(w)
}

func (a *api) addMember(w http.ResponseWriter, r *http.Request, who *Caller) error {
	return a.changeMember(w, r, who, a.hub.AddMember)
}

func (a *api) removeMember(w http.ResponseWriter, r *http.Request, who *Caller) error {
	return a.changeMember(w, r, who, a.hub.RemoveMember)
}

func (a *api) changeMember(w http.ResponseWriter, r *http.Request, who *Caller, do func(context.Context, string, Room, ProfileRef) error) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	p, err := ParseProfile(r.PathValue("p"))
	if err != nil {
		return &FieldError{CodeInvalidProfile, "profile", -1, err.Error()}
	}
	if err := do(r.Context(), tenant, room, p); err != nil {
		return err
	}
	return noContent(w)
}

func (a *api) connections(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	var of *ProfileRef
	if text := query.Get("profile"); text != "" {
		p := faults.profile("profile", text)
		of = &p
	}
	limit := faults.limit(query)
	if err := faults.Err(); err != nil {
		return err
	}
	list := a.cluster.Connections(r.Context(), tenant, of)
	count := len(list)
	if after := strings.ToLower(query.Get("after")); after != "" {
		from, _ := slices.BinarySearchFunc(list, after, func(c *Connection, id string) int {
			if c.ID.String() <= id {
				return -1
			}
			return 1
		})
		list = list[from:]
	}
	var next *string
	if len(list) > limit {
		list = list[:limit]
		id := list[limit-1].ID.String()
		next = &id
	}
	shown := make([]connection, len(list))
	for i, c := range list {
		shown[i] = wireConnection(c)
	}
	return reply(w, http.StatusOK, map[string]any{"connections": shown, "count": count, "next": next})
}

// limit is how many items one answer may have.
func (f *Faults) limit(query url.Values) int {
	text := query.Get("limit")
	if text == "" {
		return 100
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > 1000 {
		f.add(CodeInvalidField, "limit", "must be 1–1000")
	}
	return limit
}

// history answers whole envelopes, as they were published.
func (a *api) history(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	limit := faults.limit(query)
	if err := faults.Err(); err != nil {
		return err
	}
	page, gap, err := a.hub.History(r.Context(), tenant, query.Get("after"), limit)
	if err != nil {
		return err
	}
	events := make([]json.RawMessage, len(page.Entries))
	for i, e := range page.Entries {
		events[i] = e.Event.AppendWhole(nil)
	}
	return reply(w, http.StatusOK, map[string]any{"events": events, "cursor": page.Next.String(), "gap": gap})
}

// tenantConnection finds a connection of the path's tenant.
func (a *api) tenantConnection(r *http.Request, who *Caller) (*Connection, error) {
	tenant, err := pathTenant(who)
	if err != nil {
		return nil, err
	}
	c := a.cluster.Find(r.Context(), r.PathValue("id"))
	if c == nil || c.Tenant != tenant {
		return nil, errNoConnection
	}
	return c, nil
}

func (a *api) connection(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.tenantConnection(r, who)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, wireConnection(c))
}

func (a *api) kick(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.tenantConnection(r, who)
	if err != nil {
		return err
	}
	return done(w, a.cluster.Kick(r.Context(), c, CloseKicked))
}

func (a *api) kickProfile(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	p := faults.profile("profile", r.URL.Query().Get("profile"))
	if err := faults.Err(); err != nil {
		return err
	}
	for _, c := range a.cluster.Connections(r.Context(), tenant, &p) {
		a.cluster.Kick(r.Context(), c, CloseKicked)
	}
	return noContent(w)
}

func (a *api) scrape(w http.ResponseWriter, r *http.Request, _ *Caller) error {
	a.metrics.ServeHTTP(w, r)
	return nil
}

func (a *api) profiles(w http.ResponseWriter, r *http.Request, _ *Caller) error {
	profiles(w, r)
	return nil
}

func (a *api) healthy(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *api) ready(w http.ResponseWriter, r *http.Request) {
	var not *problem
	if a.hub.Draining() {
		not = &problem{http.StatusServiceUnavailable, "Draining", ErrDraining.Error()}
	} else if err := a.hub.Ready(); err != nil {
		not = &problem{http.StatusServiceUnavailable, "BrokerUnavailable", err.Error()}
	}
	if not != nil {
		fail(w, r, a.cfg.Logger, not)
		return
	}
	reply(w, http.StatusOK, map[string]string{"status": "ready"})
}

// page serves one of the files of web/.
func page(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-cache")
		body, err := web.ReadFile("web/" + name)
		if err != nil {
			http.Error(w, "the console is missing", http.StatusInternalServerError)
			return
		}
		switch path.Ext(name) { // Go would ask the machine, which may know nothing, or call a .ts film
		case ".yaml":
			w.Header().Set("Content-Type", "application/yaml")
		case ".ts":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
	}
}
