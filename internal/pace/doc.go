// Package pace keeps what may happen thousands of times a second from being told as often.
//
// [Counter.Due] counts and says whether to log now; what comes after the last line is told
// with the next one. [Reporter.Tell] has its Say called at once and then once a second, also
// for what comes last.
package pace
