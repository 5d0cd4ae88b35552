package contracttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	yaml "go.yaml.in/yaml/v4"
)

// loader reads documents; its first error stays.
type loader struct {
	compiler  *jsonschema.Compiler
	documents map[string]any
	err       error
}

func (l *loader) add(name string, text []byte) {
	var document any
	err := yaml.Unmarshal(text, &document)
	if err == nil {
		var asJSON []byte
		if asJSON, err = json.Marshal(document); err == nil {
			document, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		}
	}
	if err == nil {
		err = l.compiler.AddResource("file:///"+name, document)
	}
	l.documents[name] = document
	l.fail(name, err)
}

func (l *loader) fail(where string, err error) {
	if l.err == nil && err != nil {
		l.err = fmt.Errorf("%s: %w", where, err)
	}
}

func (l *loader) fits(schema *jsonschema.Schema, where string, value any) {
	if l.err == nil {
		l.fail(where, schema.Validate(value))
	}
}

// node is a place in a document.
type node struct {
	loader  *loader
	file    string
	pointer string
	value   any
}

func (l *loader) at(file string, names ...string) node {
	n := node{l, file, "", l.documents[file]}
	for _, name := range names {
		n = n.child(name)
	}
	return n
}

// child is a member or an element, a reference followed; without a value if there is none.
func (n node) child(name string) node {
	pointer := n.pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	switch value := n.value.(type) {
	case map[string]any:
		n.value = value[name]
	case []any:
		var i int
		fmt.Sscan(name, &i)
		n.value = value[i]
	default:
		n.value = nil
	}
	n.pointer = pointer
	object, _ := n.value.(map[string]any)
	if ref, ok := object["$ref"].(string); ok && len(object) == 1 {
		file, fragment, _ := strings.Cut(ref, "#/")
		if file = strings.TrimPrefix(file, "./"); file == "" {
			file = n.file
		}
		return n.loader.at(file, strings.Split(strings.NewReplacer("~1", "/").Replace(fragment), "/")...)
	}
	return n
}

// children are the members of an object or the elements of an array, by name.
func (n node) children() map[string]node {
	all := map[string]node{}
	switch value := n.value.(type) {
	case map[string]any:
		for name := range value {
			all[name] = n.child(name)
		}
	case []any:
		for i := range value {
			all[fmt.Sprint(i)] = n.child(fmt.Sprint(i))
		}
	}
	return all
}

func (n node) text(name string) string { s, _ := n.child(name).value.(string); return s }

func (n node) is(name string, value any) bool { return n.child(name).value == value }

// schema compiles one; nil where there is none.
func (l *loader) schema(n node) *jsonschema.Schema {
	if n.value == nil {
		return nil
	}
	s, err := l.compiler.Compile("file:///" + n.file + "#" + n.pointer)
	l.fail(n.pointer, err)
	return s
}

func (l *loader) operation(op, item node) *Operation {
	o := &Operation{ID: op.text("operationId"), answers: map[string]response{}}
	encoded, _ := json.Marshal(op.child("security").value)
	l.fail(op.pointer, json.Unmarshal(encoded, &o.Security))
	for _, of := range []node{op, item} {
		for _, p := range of.child("parameters").children() {
			o.parameters = append(o.parameters, l.parameter(p))
		}
	}
	o.bodies = l.bodies(op.child("requestBody"))
	for status, answer := range op.child("responses").children() {
		r := response{map[string]parameter{}, l.bodies(answer)}
		for name, h := range answer.child("headers").children() {
			p := l.parameter(h)
			p.name = name
			r.headers[name] = p
		}
		o.answers[status] = r
	}
	return o
}

func (l *loader) parameter(p node) parameter {
	schema := p.child("schema")
	return parameter{
		example: p.text("example"), name: p.text("name"), in: p.text("in"), required: p.is("required", true), schema: l.schema(schema),
		array: schema.is("type", "array"), apart: !p.is("explode", false), int: schema.is("type", "integer"),
	}
}

func (l *loader) bodies(of node) map[string]media {
	all := map[string]media{}
	for kind, m := range of.child("content").children() {
		body := media{line: l.schema(m.child("x-line-schema"))}
		if body.text = !strings.HasSuffix(kind, "json") || body.line != nil; !body.text {
			body.schema = l.schema(m.child("schema"))
		}
		example := m.child("example").value
		for _, name := range slices.Sorted(maps.Keys(m.child("examples").children())) {
			if example == nil {
				example = m.child("examples").child(name).child("value").value
			}
		}
		if text, ok := example.(string); ok {
			body.example = text
		} else if example != nil {
			text, _ := json.Marshal(example)
			body.example = string(text)
		}
		if body.line != nil {
			for line := range strings.Lines(body.example) {
				value, err := decode([]byte(line))
				l.fail(m.pointer, err)
				l.fits(body.line, m.pointer, value)
			}
		}
		all[kind] = body
	}
	return all
}
