//go:build race

package claims

// raceEnabled makes explorations smaller.
const raceEnabled = true
