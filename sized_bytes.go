package main

// blockBytes is the memory that Go takes for so many bytes: its sizes lie up to a fifth apart,
// and above 32 KiB it takes whole pages (runtime/sizeclasses.go).
func blockBytes(n int) int64 {
	const page = 8 << 10
	switch {
	case n > 4*page:
		return int64(n+page-1) &^ (page - 1)
	case n > 256:
		n += n / 8
	}
	return int64(n+15) &^ 15
}

// textBytes is the memory that a text takes that nothing else holds.
func textBytes(s string) int64 { return blockBytes(len(s)) }
