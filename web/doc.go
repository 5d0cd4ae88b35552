// Package web is the files that browsers load, and serves them: the console, the client and
// the documents of the contract. [Page] answers with one of [Files].
package web
