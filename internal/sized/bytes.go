package sized

// Block is the memory, in bytes, that Go takes for a piece of n bytes. Its sizes lie up to a
// fifth apart, and above 32 KiB it takes whole pages (runtime/sizeclasses.go).
func Block(n int) int64 {
	const page = 8 << 10
	switch {
	case n > 4*page:
		return int64(n+page-1) &^ (page - 1)
	case n > 256:
		n += n / 8
	}
	return int64(n+15) &^ 15
}

// Text is the memory, in bytes, that Go takes for what a string says, if nothing else holds
// it. The string's own 16 bytes are part of whatever it is in.
func Text(s string) int64 { return Block(len(s)) }
