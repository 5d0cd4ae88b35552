package sse

// LineCap is how many bytes a reader keeps for a line.
func (r *Reader) LineCap() int { return cap(r.line) }

var DecodeUTF8 = decodeUTF8
