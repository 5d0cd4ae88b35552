// Package access decides who may call. [NewAuth] reads the keys; [Auth.Admit] proves the
// credential of a request, and is the only way to a [Caller]: so no handler acts for a
// tenant that nobody has proven. [Rates] bounds how often a caller, or all publishers of a
// tenant, may call ([NewRates]). [Pages] lets the pages of the configured origins call, and
// refuses others ([Pages.Shared], [Pages.Refuses]). A [Refusal] and a [RateError] carry what
// they are answered with.
//
// Locks are held for moments and never together; under them at most a quota's pool is asked.
package access
