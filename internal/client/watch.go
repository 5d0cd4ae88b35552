package client

import (
	"slices"
	"strconv"
	"strings"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// WatchList reads the profiles to watch; "none" alone is nobody, "*" as configured.
func WatchList(f *problem.Faults, field string, list []string) []event.Profile {
	if len(list) == 1 && list[0] == "*" {
		return nil
	}
	watch := []event.Profile{}
	if len(list) == 1 && list[0] == "none" {
		return watch
	}
	if len(list) > event.MaxAskedProfiles {
		f.Add(problem.CodeInvalidField, field, "%d profiles at most", event.MaxAskedProfiles)
		return watch
	}
	for i, text := range list {
		p := f.Profile(field+"["+strconv.Itoa(i)+"]", strings.Clone(text))
		if !slices.Contains(watch, p) {
			watch = append(watch, p)
		}
	}
	return watch
}

// WatchValue is WatchList for JSON, which has profiles in either form.
func WatchValue(f *problem.Faults, field string, v strictjson.Value) []event.Profile {
	if f.TooMany(problem.CodeInvalidField, field, v, event.MaxAskedProfiles, "profiles") {
		return nil
	}
	count, word := 0, ""
	v.Array(func(_ int, v strictjson.Value) {
		count++
		word, _ = v.String()
	})
	if count == 1 && (word == "none" || word == "*") {
		return WatchList(f, field, []string{word})
	}
	return append([]event.Profile{}, f.Profiles(problem.CodeInvalidField, field, v)...)
}
