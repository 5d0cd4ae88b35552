// Package reread keeps what files hold up to date, so that a renewed certificate or key
// needs no restart.
//
// [Open] reads the files for the first time. [File.Get] is what they hold; it looks at them
// once a second at most and reads them again if they have changed. [File.Reload] reads them
// at once.
package reread
