package run

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
)

func TestLastHealthyPeerIsOneWithoutAnyFault(t *testing.T) {
	sc := scenario.Scenario{Peers: 40, Tasks: 1, Pieces: 1, Crash: 0.2, Unreachable: 0.2, Lie: 0.2, Seed: 3}
	r := Result{Ends: make([]time.Duration, sc.Peers)}
	want := time.Duration(0)
	for i, p := range sc.Draw() {
		r.Ends[i] = time.Duration(i+1) * time.Second
		if p.CrashAfter == 0 && !p.Unreachable && !p.Lies {
			want = r.Ends[i]
		} else {
			r.Ends[i] += time.Hour
		}
	}
	require.Equal(t, want, LastHealthy(sc, r))
	require.Equal(t, 40*time.Second, LastHealthy(Healthy(sc), Result{Ends: []time.Duration{39: 40 * time.Second}}))

	sc.Unreachable = 1
	require.Zero(t, LastHealthy(sc, r), "no peer is healthy")
}
