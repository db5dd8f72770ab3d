package run

import (
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
)

// Healthy returns the same scenario without peers that crash, are unreachable or
// lie.
func Healthy(sc scenario.Scenario) scenario.Scenario {
	sc.Crash, sc.Unreachable, sc.Lie = 0, 0, 0
	return sc
}

// LastHealthy returns when the last of the peers ended that are healthy in a
// scenario, as the time from the first start of a download of the run. It is 0 if
// there is none.
func LastHealthy(sc scenario.Scenario, r Result) time.Duration {
	var last time.Duration
	for i, p := range sc.Draw() {
		if p.CrashAfter == 0 && !p.Unreachable && !p.Lies {
			last = max(last, r.Ends[i])
		}
	}
	return last
}
