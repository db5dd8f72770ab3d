package faults

import (
	"testing"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
)

// The owner's host is cut off in mid-fetch: it lives and hears nobody. Source,
// etcd and clients are on the other side. When it is back it must have lost.
func TestOwnerCutOff(t *testing.T) {
	t.Parallel()
	hosts := lab.Hosts(t, 3)
	var specs []cluster.Spec
	at := make(map[string]*lab.Host)
	for _, h := range hosts {
		specs = append(specs, cluster.Spec{IP: h.IP, REST: h.IP + ":8002", Inside: h.Inside()})
		at[h.IP] = h
	}
	s := newSite(t, cluster.RunBundles(t, binaries, cluster.RunEtcds(t, binaries, lab.HubIP), specs), lab.HubIP)
	cut := func(tr *trial) {
		owner := tr.owner()
		at[owner.IP].Cut(tr.t)
		tr.t.Cleanup(func() { at[owner.IP].Heal(tr.t) })
		tr.away[owner] = true
	}
	heal := func(tr *trial) {
		at[tr.owner().IP].Heal(tr.t)
		tr.comeBack(tr.t)
	}
	plans := []plan{{
		name: "owner cut off, back when it is replaced", at: 30, slower: 2, failures: -1, spare: inFlight(), epochs: 2,
		fault: func(tr *trial) {
			cut(tr)
			tr.awaitReplaced()
			heal(tr)
		},
	}}
	if large { // clients that read from it are stuck for a minute
		plans = append(plans, plan{
			name: "owner cut off, back after the end", at: usual, failures: -1, spare: inFlight(), epochs: 2,
			fault: cut, after: heal,
		})
	}
	carryOut(t, s, plans...)
}
