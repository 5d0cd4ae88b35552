// Package contracttest holds HTTP traffic and event streams against an OpenAPI 3.1
// document and an AsyncAPI 3.0 one: what is sent must be documented, and what the
// document refuses must not be taken. It is for tests.
package contracttest

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Contract is the two documents, their schemas compiled once: to compile one for
// each message takes longer than what is tested.
type Contract struct {
	// Fold changes a decoded body as the server reads it, where a schema cannot say so.
	Fold func(body any)
	// Unlisted are paths that are nobody's contract.
	Unlisted map[string]bool

	operations map[string]*Operation // by method and path, "GET /v1/stream"
	mux        *http.ServeMux        // finds them
	elsewhere  *Operation            // what any path may answer
	messages   map[string]*message   // by name
	socket     dialogue

	judged judged

	mu   sync.Mutex
	seen map[string]bool // guarded by mu; "GET /v1/stream 200 text/event-stream", "hub.ready"
}

// Operation is one of the OpenAPI document.
type Operation struct {
	Name     string // method and path
	ID       string
	Security []map[string][]string // any of these; scheme to scopes

	parameters []parameter
	bodies     map[string]media    // by media type
	answers    map[string]response // by status
}

type parameter struct {
	name, in string
	required bool
	array    bool
	apart    bool // an array's items are one parameter each
	int      bool
	example  string
	schema   *jsonschema.Schema
}

type media struct {
	text   bool               // not JSON: nothing in it is checked, but its lines
	schema *jsonschema.Schema // of JSON
	line   *jsonschema.Schema // of each line
	// example is the only one, or the first of several by name.
	example string
}

type response struct {
	headers map[string]parameter
	bodies  map[string]media
}

// message is one of the AsyncAPI document.
type message struct{ headers, payload *jsonschema.Schema }

// Load reads the documents. Where their own examples do not fit, in events and lines,
// they are refused; for those of JSON bodies there are other tools.
func Load(openapi, asyncapi []byte) (*Contract, error) {
	l := &loader{compiler: jsonschema.NewCompiler(), documents: map[string]any{}}
	l.compiler.DefaultDraft(jsonschema.Draft2020)
	l.compiler.AssertFormat()
	l.add("openapi.yaml", openapi)
	l.add("asyncapi.yaml", asyncapi)
	c := &Contract{operations: map[string]*Operation{}, mux: http.NewServeMux(), messages: map[string]*message{}, seen: map[string]bool{}}
	for path, item := range l.at("openapi.yaml", "paths").children() {
		for method, op := range item.children() {
			if method == "parameters" {
				continue
			}
			o := l.operation(op, item)
			o.Name = strings.ToUpper(method) + " " + path
			c.operations[o.Name] = o
			pattern := o.Name
			if strings.HasSuffix(path, "/") {
				pattern += "{$}"
			}
			c.mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
		}
	}
	c.elsewhere = l.operation(l.at("openapi.yaml", "x-any-path"), node{})
	c.elsewhere.Name = "any path"
	for name, m := range l.at("asyncapi.yaml", "components", "messages").children() {
		known := &message{l.schema(m.child("headers")), l.schema(m.child("payload"))}
		for i, example := range m.child("examples").children() {
			l.fits(known.headers, name+" example "+i, example.child("headers").value)
			l.fits(known.payload, name+" example "+i, example.child("payload").value)
		}
		c.messages[name] = known
	}
	c.socket = l.dialogue(l.at("asyncapi.yaml", "components", "x-socket"))
	return c, l.err
}

// Operations are all, by name.
func (c *Contract) Operations() []*Operation {
	return slices.SortedFunc(maps.Values(c.operations), func(a, b *Operation) int { return strings.Compare(a.Name, b.Name) })
}

// Sample is a request made of the document's examples, with a body of a media type;
// set is what parameters have instead.
func (o *Operation) Sample(kind string, set map[string]string) (method, target, body string) {
	method, target, _ = strings.Cut(o.Name, " ")
	separator := "?"
	for _, p := range o.parameters {
		value, ok := set[p.name]
		if !ok {
			value = p.example
		}
		switch {
		case p.in == "path":
			target = strings.Replace(target, "{"+p.name+"}", url.PathEscape(value), 1)
		case p.in == "query" && (p.required || ok):
			target += separator + p.name + "=" + url.QueryEscape(value)
			separator = "&"
		}
	}
	return method, target, o.bodies[kind].example
}

// Takes says whether there is a parameter of that name.
func (o *Operation) Takes(name string) bool {
	return slices.ContainsFunc(o.parameters, func(p parameter) bool { return p.name == name })
}

// Bodies are the media types of requests.
func (o *Operation) Bodies() []string { return slices.Sorted(maps.Keys(o.bodies)) }

// Scopes are those of any of which one is needed; none where a credential needs none.
func (o *Operation) Scopes() []string {
	var all []string
	for _, one := range o.Security {
		for _, scopes := range one {
			all = append(all, scopes...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Statuses are those that an operation's answers may have, in order.
func (o *Operation) Statuses() []string { return slices.Sorted(maps.Keys(o.answers)) }

// Documented are all that a whole run might see: "GET /v1/stream 200 text/event-stream",
// and the names of messages.
func (c *Contract) Documented() []string {
	list := slices.Collect(maps.Keys(c.messages))
	for _, o := range append(c.Operations(), c.elsewhere) {
		for status, answer := range o.answers {
			if len(answer.bodies) == 0 {
				list = append(list, o.Name+" "+status)
			}
			for kind := range answer.bodies {
				list = append(list, o.Name+" "+status+" "+kind)
			}
		}
	}
	slices.Sort(list)
	return list
}

// Seen says whether one of [Contract.Documented] was.
func (c *Contract) Seen(what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[what]
}

func (c *Contract) see(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[what] = true
}
