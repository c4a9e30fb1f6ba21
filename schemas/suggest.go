package schemas

// "did you mean": the nearest known name to a misspelt one.

import (
	"maps"
	"slices"
	"strconv"
)

// didYouMean returns `: did you mean "x"?` for the nearest of known, or "" where
// none is near. known must be sorted, so that the answer is always the same.
func didYouMean(got string, known []string) string {
	best, distance := "", 1+len(got)/3
	if len(got) > MaxKind {
		return ""
	}
	for _, k := range known {
		if d := editDistance(got, k); d <= distance && (best == "" || d < distance) {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + strconv.Quote(best) + "?"
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// editDistance is Levenshtein's, with a swap of neighbours counted as one
// (optimal string alignment), over bytes.
func editDistance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
