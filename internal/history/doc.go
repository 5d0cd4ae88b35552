// Package history is what a tenant's events are once they are taken: a [Log] that gives each
// its place in one order, knows duplicates by their id, reads from a [Cursor] on, and says
// what is no longer there. [Memory] is the Log of a hub that is alone; another is in package
// broker, and both keep their last events on [Shelves].
//
// [Log.Append] takes events and hands them to the [Sink] in order. [Log.Find] turns a
// client's cursor into a place, or says why it is none. [Log.Read] answers a [Query] with a
// [Page]. Shelves, [Fetch] and [Page.Add] are exported for broker alone.
package history
