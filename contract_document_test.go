package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/matryer/is"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/hubtest"
)

func readDocument(t *testing.T) *openapi3.T {
	t.Helper()
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromFile("web/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The document is OpenAPI, and its examples are valid.
func TestContractDocument(t *testing.T) {
	is := is.New(t)
	doc := readDocument(t)
	is.NoErr(doc.Validate(t.Context(), openapi3.EnableExamplesValidation()))
	ids := map[string]bool{}
	for _, item := range doc.Paths.Map() {
		for _, o := range item.Operations() {
			is.True(o.OperationID != "" && !ids[o.OperationID] && o.Summary != "" && len(o.Tags) == 1 && o.Security != nil)
			ids[o.OperationID] = true
		}
	}

	h := newTestHub(t)
	for _, name := range []string{"openapi.yaml", "asyncapi.yaml"} {
		want, err := os.ReadFile("web/" + name)
		is.NoErr(err)
		w := ask(h.Handler, "GET", "/"+name, "")
		is.Equal(w.Code, http.StatusOK)
		is.Equal(w.Header().Get("Content-Type"), "application/yaml")
		is.True(bytes.Equal(w.Body.Bytes(), want))
	}
}

// codeRoutes is every pattern that is served, and who may.
func (a *api) codeRoutes() map[string]string {
	all := map[string]string{}
	for pattern, route := range a.routes() {
		all[pattern] = route.scope.String()
	}
	for pattern := range a.openRoutes() {
		if _, path, _ := strings.Cut(pattern, " "); !slices.Contains(hubtest.ConsoleFiles, path) {
			all[pattern] = ""
		}
	}
	return all
}

// patternOf finds the pattern that an operation's example is served by.
func (a *api) patternOf() func(o *contracttest.Operation) string {
	mux := http.NewServeMux()
	for pattern := range a.codeRoutes() {
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	return func(o *contracttest.Operation) string {
		method, target, _ := o.Sample("", nil)
		_, pattern := mux.Handler(httptest.NewRequest(method, target, nil))
		return pattern
	}
}

func (a *api) serves() func(o *contracttest.Operation) bool {
	find := a.patternOf()
	return func(o *contracttest.Operation) bool { return find(o) != "" }
}

// The route table and the document have the same calls, for the same scopes.
func TestContractRoutes(t *testing.T) {
	c, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	a := newTestHub(t).API
	find := a.patternOf()
	documented := map[string]int{}
	for _, o := range c.Operations() {
		pattern := find(o)
		documented[pattern]++
		switch {
		case pattern == "":
			t.Errorf("documented, and not served: %s", o.Name)
		case a.codeRoutes()[pattern] != strings.Join(o.Scopes(), " or "):
			t.Errorf("%s: the document has the scopes %v, the hub %q", o.Name, o.Scopes(), a.codeRoutes()[pattern])
		}
	}
	for pattern := range a.codeRoutes() {
		want := 1
		if strings.Contains(pattern, "{rooms}") { // conversations and groups
			want = 2
		}
		if documented[pattern] < want {
			t.Errorf("served, and not documented: %s", pattern)
		}
	}
}

// The codes that the source can answer and the document's are the same closed sets.
func TestContractCodes(t *testing.T) {
	fields, all := codesOfTheSource(t)
	schemas := readDocument(t).Components.Schemas
	for name, want := range map[string]map[string]bool{"FieldCode": fields, "Code": all} {
		documented := map[string]bool{}
		for _, code := range schemas[name].Value.Enum {
			documented[code.(string)] = true
			if !want[code.(string)] {
				t.Errorf("%s: %v is documented, and never answered", name, code)
			}
		}
		for code := range want {
			if !documented[code] {
				t.Errorf("%s: %s is answered, and not documented", name, code)
			}
		}
	}
}

// What a publish may be answered is counted by its code, so each code that the document has for
// one is of the set.
func TestContractPublishCodes(t *testing.T) {
	elsewhere := []string{"NotAMember", "ForbiddenHost", "BrokerUnavailable", "HubUnavailable"} // of commands, of no route, of questions
	counted, documented := problemCodes(), map[string]bool{}
	for _, item := range readDocument(t).Paths.Map() {
		for _, o := range item.Operations() {
			if !slices.Equal(o.Tags, []string{"publish"}) {
				continue
			}
			for _, answer := range o.Responses.Map() {
				problem := answer.Value.Content["application/problem+json"]
				if problem == nil {
					continue
				}
				for _, part := range problem.Schema.Value.AllOf {
					if part.Ref == "" { // else it is what all problems have in common
						codesOf(part.Value.Properties["code"], documented)
					}
				}
			}
		}
	}
	for code := range documented {
		if !slices.Contains(counted, code) && !slices.Contains(elsewhere, code) {
			t.Errorf("%s is answered to a publish, and not counted", code)
		}
	}
	if len(documented) < 40 {
		t.Errorf("%d codes were found", len(documented))
	}
}

// codesOf adds the codes that a schema lists.
func codesOf(schema *openapi3.SchemaRef, codes map[string]bool) {
	if schema == nil {
		return
	}
	for _, code := range append(schema.Value.Enum, schema.Value.Const) {
		if code, ok := code.(string); ok {
			codes[code] = true
		}
	}
	for _, part := range schema.Value.AnyOf {
		codesOf(part, codes)
	}
}

// sources are the Go files that the program is made of, by name.
func sources(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && (strings.HasPrefix(name, ".") || strings.HasSuffix(name, "test") || name == "testdata"):
			return fs.SkipDir
		case !entry.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// nameOf is a name without its package.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// codesOfTheSource reads them: the constants of type Code, and what is written as the
// code of a problem or a Refusal.
func codesOfTheSource(t *testing.T) (fields, all map[string]bool) {
	fields, all = map[string]bool{}, map[string]bool{}
	constants := map[string]string{}
	var files []*ast.File
	for _, name := range sources(t) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	text := func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, _ := strconv.Unquote(e.Value)
			return s
		case *ast.Ident:
			return constants[e.Name]
		case *ast.SelectorExpr: // of another package
			return constants[e.Sel.Name]
		}
		return "" // another's code, which is found where it is written
	}
	each := func(see func(ast.Node)) {
		for _, file := range files {
			ast.Inspect(file, func(n ast.Node) bool { see(n); return true })
		}
	}
	each(func(n ast.Node) {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == 1 && len(spec.Values) == 1 {
			value := text(spec.Values[0])
			constants[spec.Names[0].Name] = value
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
				fields[value], all[value] = true, true
			}
		}
	})
	each(func(n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if kind := nameOf(n.Type); kind != "Problem" && kind != "Refusal" || len(n.Elts) < 2 {
				return
			}
			for i, element := range n.Elts {
				if pair, ok := element.(*ast.KeyValueExpr); ok && nameOf(pair.Key) == "Code" {
					all[text(pair.Value)] = true
				} else if !ok && i == 1 {
					all[text(element)] = true
				}
			}
		case *ast.AssignStmt:
			to, ok := n.Lhs[0].(*ast.SelectorExpr)
			if ok && to.Sel.Name == "Code" {
				all[text(n.Rhs[0])] = true
			}
		}
	})
	delete(all, "")
	return fields, all
}

// What README's calls name is documented; "…" stands for a beginning or an end that it leaves out.
func TestContractREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## Calls\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	places := regexp.MustCompile(`\{[^}]*\}`)
	for path, item := range readDocument(t).Paths.Map() {
		for method := range item.Operations() {
			documented = append(documented, method+" "+places.ReplaceAllString(path, "{}"))
		}
	}
	calls := regexp.MustCompile("`([A-Z, ]*)(/[^` ?]*|…/[^` ?]*)").FindAllStringSubmatch(section, -1)
	if !found || len(calls) < 20 {
		t.Fatalf("README has %d calls", len(calls))
	}
	for _, call := range calls {
		path := strings.TrimSuffix(places.ReplaceAllString(call[2], "{}"), "…")
		for method := range strings.SplitSeq(strings.TrimSpace(call[1]), ", ") {
			if !slices.ContainsFunc(documented, func(name string) bool {
				rest, short := strings.CutPrefix(path, "…")
				return strings.HasPrefix(name, method) && (name == method+" "+path || method == "" && strings.HasSuffix(name, " "+path) || short && strings.HasSuffix(name, rest))
			}) {
				t.Errorf("README calls %s, which is not documented", call[0])
			}
		}
	}
}
