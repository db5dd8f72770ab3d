package faults

import (
	"testing"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
)

// Wall clocks jump, by an operator's hand or a virtual machine's pause: nothing
// that is measured in them may end, begin again or change hands.
func TestClocksJump(t *testing.T) {
	t.Parallel()
	address, clocks := cluster.Net(t), make(map[string]*cluster.Clock)
	var specs []cluster.Spec
	for i := range 3 {
		clock, ip := cluster.NewClock(t), address(i+1)
		clocks[ip] = clock
		specs = append(specs, cluster.Spec{IP: ip, Inside: clock.Inside()})
	}
	s := newSite(t, cluster.RunBundles(t, binaries.Clocked(), cluster.RunEtcds(t, binaries, address(200)), specs), "127.0.0.1")
	set := func(tr *trial, owner, replica, scheduler time.Duration) {
		clocks[tr.scheduler().IP].Set(tr.t, tr.scheduler(), scheduler)
		clocks[tr.owner().IP].Set(tr.t, tr.owner(), owner)
		clocks[tr.replica().IP].Set(tr.t, tr.replica(), replica)
	}
	right := func(tr *trial) {
		for _, n := range tr.Nodes {
			clocks[n.IP].Set(tr.t, n, 0)
		}
	}
	carryOut(t, s, plan{
		name: "clocks set an hour forward and back", at: usual, own: true,
		before: right,
		fault: func(tr *trial) {
			set(tr, time.Hour, -time.Hour, -time.Hour)
			set(tr, -time.Hour, time.Hour, time.Hour)
		},
		after: right,
	})
}
