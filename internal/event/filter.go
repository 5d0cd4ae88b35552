package event

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"realtimehub/internal/sized"
)

// Filter is the set of types that a stream wants. A nil Filter wants all.
type Filter struct {
	exact    map[string]bool
	prefixes []string // each with its final dot
}

// ParseFilter reads patterns: a type, a type's beginning with ".*", or "*". It returns an
// error for each that is none of these. Nil patterns are no filter; an empty list wants
// nothing.
func ParseFilter(patterns []string) (*Filter, []error) {
	if patterns == nil {
		return nil, nil
	}
	if len(patterns) > MaxAskedProfiles {
		return nil, []error{fmt.Errorf("%d types at most", MaxAskedProfiles)}
	}
	filter, all := &Filter{exact: map[string]bool{}}, false
	var errs []error
	for _, pattern := range patterns {
		prefix, star := strings.CutSuffix(pattern, "*")
		switch {
		case star && prefix == "":
			all = true // the others may still be at fault
		case star && strings.HasSuffix(prefix, ".") && ValidType(prefix):
			filter.prefixes = append(filter.prefixes, strings.Clone(prefix))
		case !star && ValidType(pattern):
			filter.exact[strings.Clone(pattern)] = true
		default:
			errs = append(errs, fmt.Errorf("%q is neither a type nor the beginning of types followed by .*", pattern))
		}
	}
	if all {
		return nil, errs
	}
	return filter, errs
}

// Patterns are what ParseFilter reads as f; for no filter that is "*".
func (f *Filter) Patterns() []string {
	if f == nil {
		return []string{"*"}
	}
	list := slices.AppendSeq([]string{}, maps.Keys(f.exact)) // not nil where there are none: that would want all
	slices.Sort(list)
	for _, prefix := range f.prefixes {
		list = append(list, prefix+"*")
	}
	return list
}

// Bytes is the memory that f takes.
func (f *Filter) Bytes() int64 {
	if f == nil {
		return 0
	}
	n := int64(32+48) + 40*int64(cap(f.prefixes))
	if len(f.exact) > 0 {
		n += 40 * int64(max(len(f.exact), 4))
	}
	for name := range f.exact {
		n += sized.Text(name)
	}
	for _, prefix := range f.prefixes {
		n += sized.Text(prefix)
	}
	return n
}

// Or is a filter that wants what either of two does, and more where that would be too many patterns.
func (f *Filter) Or(other *Filter) *Filter {
	if f == nil || other == nil {
		return nil
	}
	both, _ := ParseFilter(append(f.Patterns(), other.Patterns()...))
	return both
}

// Wants says whether an event of this type passes.
func (f *Filter) Wants(name string) bool {
	if f == nil || f.exact[name] {
		return true
	}
	for _, prefix := range f.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
