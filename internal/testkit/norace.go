//go:build !race

package testkit

// RaceDetector says whether the tests have it.
const RaceDetector = false
