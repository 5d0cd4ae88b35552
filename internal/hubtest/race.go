//go:build race

package hubtest

// RaceDetector says whether the tests have it.
const RaceDetector = true
