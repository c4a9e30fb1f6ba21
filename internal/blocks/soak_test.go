//go:build soak

package blocks

import "testing"

func TestSoakModelHolds(t *testing.T) {
	for _, b := range []budget{
		{deaths: 2, crashes: 1, discards: 1},
		{deaths: 1, crashes: 2},
		{deaths: 1, crashes: 1, dups: 1},
		{deaths: 2, crashes: 1, losses: 1},
		{deaths: 1, zombies: 1},
		{deaths: 1, zombies: 1, discards: 1},
		{deaths: 2, giveUps: 1},
		{deaths: 1, crashes: 1, giveUps: 1},
		{deaths: 1, crashes: 1, losses: 1, giveUps: 1},
	} {
		m := model{from: b}
		m.mustHold(t)
	}
}

func TestSoakEveryMutationIsCaught(t *testing.T) {
	for _, test := range mutations {
		if test.soak {
			test.m.mustFail(t, test.name, test.want)
		}
	}
}
