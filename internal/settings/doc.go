// Package settings reads the environment into one [Config], with defaults that are safe, and
// tells all that is wrong with it at once.
//
// [Load] reads it, [Unknown] names variables that are no settings, and [Config.Misfits] tells
// which do not fit together; [Config.Warn] logs both. [PrintHelp], [Version] and [NewLogger] are
// what follows from the settings before anything else starts.
package settings
