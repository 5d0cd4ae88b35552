package lobby

import "realtimehub/internal/reserve"

// strangerBytes is what a connection that has proven nothing may cost, headers, buffers
// and its goroutine together.
const strangerBytes = 48 << 10

// Most is for how many connections that have proven nothing there are so many bytes, and
// descriptors: of those streams have at least half. 0: any number.
func Most(bytes int64) int {
	most := int(bytes / strangerBytes)
	if half := reserve.Outside() / 2; half > 0 && (most == 0 || half < most) {
		most = half
	}
	return most
}
