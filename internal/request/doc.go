// Package request reads what callers send, and bounds what that costs. [Limit.Read] reads a
// body of JSON and [Limit.Object] what is in it, within a call's memory; [TooManyHeaders] and
// [HeadBytes] weigh a head; [BodyTurn] and [ListTurn] have large bodies and lists take turns;
// [AbortIfReset] ends what its caller has taken back. The turns are the package's only state:
// half of the processors, shared by all tenants.
package request
