package faults

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/origin"
)

// Hosts that hear only some of the others, or nobody. There is one network of
// hosts at a time.
func TestPartitions(t *testing.T) {
	t.Parallel()
	t.Run("owner", ownerCutOff)
	t.Run("scheduler", schedulerParted)
}

// The owner's host is cut off in mid-fetch: it lives and hears nobody. Source,
// etcd and clients are on the other side. When it is back it must have lost.
func ownerCutOff(t *testing.T) {
	place, at := cluster.AtHosts(lab.Hosts(t, 3))
	specs := []cluster.Spec{place(1), place(2), place(3)}
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
			fault: cut,
			after: func(tr *trial) {
				heal(tr)
				tr.awaitLetGo()
			},
		})
	}
	carryOut(t, s, plans...)
}

// awaitLetGo waits until nobody fetches from the source any more. One that is back
// is sent what was on its way to it until it hears that it has lost.
func (tr *trial) awaitLetGo() {
	tr.t.Helper()
	require.NoError(tr.t, tr.source.Await(tr.ctx, tr.file.path, func(s origin.Stats) bool { return s.Active == 0 }))
}

// The task's scheduler does not hear the CDNs any more in mid-fetch, nor they
// it; everybody else reaches all of them. Clients know one gateway each, and
// never have to leave it: the task goes to a scheduler that hears a CDN. So
// do files that the parted scheduler is asked for first.
func schedulerParted(t *testing.T) {
	const processes = 12
	place, at := cluster.AtHosts(lab.Hosts(t, processes))
	s := newSite(t, cluster.RunServices(t, binaries, cluster.RunEtcds(t, binaries, lab.HubIP), place, 3, nil), lab.HubIP)
	var cdns []*lab.Host
	for _, n := range s.All(cluster.CDN) {
		cdns = append(cdns, at[n.IP])
	}
	carryOut(t, s, plan{
		name: "scheduler hears no CDN", at: 30, slower: 2, own: true, epochs: 1,
		fault: func(tr *trial) {
			parted := tr.scheduler()
			at[parted.IP].Part(tr.t, cdns...)
			atOnce := tr.newFileOf(parted)
			tr.requireServed(atOnce, false)
			await(tr.t, joinLimit, "the task is to have another scheduler", func() error {
				rec, err := tr.Record(tr.file.id)
				if err == nil && rec.GetScheduler() == parted.ID {
					err = fmt.Errorf("it is still %s", parted.Name)
				}
				return err
			})
			later := tr.newFileOf(parted)
			tr.requireServed(later, true)
			at[parted.IP].Join(tr.t, cdns...)
			for _, f := range []file{atOnce, later} {
				rec := tr.settleFile(tr.t, f)
				require.NotEqual(tr.t, parted.ID, rec.GetScheduler())
				tr.t.within(unless(rec.GetEpoch() <= 2, "it is handed back and forth"))
			}
		},
	})
}

// newFileOf gives a file that gateways ask a scheduler for first.
func (tr *trial) newFileOf(scheduler *cluster.Node) file {
	for {
		if f := tr.newFile(sizeOfSmall, rateOfSmall); tr.schedulerToBe(f) == scheduler {
			return f
		}
	}
}

// requireServed has a few clients download a file.
func (tr *trial) requireServed(f file, own bool) {
	tr.t.Helper()
	gateways := tr.there(cluster.Gateway)
	requireRight(tr.t, f, <-begin(tr.ctx, tr.t, peersAt(tr.t, len(gateways), f.url, gateways, own)))
}
