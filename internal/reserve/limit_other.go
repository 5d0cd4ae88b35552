//go:build !unix

package reserve

func limit() int { return 0 }
