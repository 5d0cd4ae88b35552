// Package access decides who calls and what they may: credentials (tokens, keys of services,
// cookies, certificates), scopes, the origins of pages, and how often anybody may call.
//
// [Auth.Admit] makes a [Caller] of a request, or a [Refusal]. A Caller says for which tenant
// and profile it acts, and there is no other way to get one: so nothing acts for a tenant that
// nobody has proven. [Caller.Vouch] has its request leave the lobby. [Pages.Refuses] keeps out
// pages that are not listed, and the methods of [Rates] are asked before a call does anything.
//
// No two locks of the package are held together; under one at most a quota's pool is asked.
package access
