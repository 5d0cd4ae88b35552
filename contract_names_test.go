package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// A generator makes one type of each component, whatever section it is in: two of one
// name are two types of one name, and no code at all.
func TestContractNamesDiffer(t *testing.T) {
	components := readDocument(t).Components
	sections := map[string][]string{}
	for section, names := range map[string][]string{
		"schemas": slices.Collect(maps.Keys(components.Schemas)), "parameters": slices.Collect(maps.Keys(components.Parameters)),
		"responses": slices.Collect(maps.Keys(components.Responses)), "headers": slices.Collect(maps.Keys(components.Headers)),
	} {
		for _, name := range names {
			sections[strings.ToLower(name)] = append(sections[strings.ToLower(name)], section+"/"+name)
		}
	}
	for _, same := range sections {
		if len(same) > 1 {
			slices.Sort(same)
			t.Errorf("one name: %s", strings.Join(same, ", "))
		}
	}
}

// A schema that is an array says of what, also where another part of it does: linters
// and generators look at each part alone.
func TestContractArraysHaveItems(t *testing.T) {
	seen := map[*openapi3.Schema]bool{}
	arrays := 0
	var walk func(where string, ref *openapi3.SchemaRef)
	walk = func(where string, ref *openapi3.SchemaRef) {
		if ref == nil || ref.Value == nil || seen[ref.Value] {
			return
		}
		s := ref.Value
		seen[s] = true
		if s.Type != nil && s.Type.Includes("array") {
			arrays++
			if s.Items == nil {
				t.Errorf("%s: an array of what?", where)
			}
		}
		for _, list := range []openapi3.SchemaRefs{s.AllOf, s.AnyOf, s.OneOf} {
			for _, part := range list {
				walk(where, part)
			}
		}
		for _, part := range []*openapi3.SchemaRef{s.Items, s.Not, s.If, s.Then, s.Else} {
			walk(where, part)
		}
		for name, property := range s.Properties {
			walk(where+"."+name, property)
		}
	}
	components := readDocument(t).Components
	for name, ref := range components.Schemas {
		walk(name, ref)
	}
	for name, response := range components.Responses {
		for _, media := range response.Value.Content {
			walk(name, media.Schema)
		}
	}
	if arrays < 10 {
		t.Errorf("only %d arrays were found", arrays)
	}
}
