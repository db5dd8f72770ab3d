package faults

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/swarm"
)

// What happens to etcd costs nobody a download.
func TestEtcd(t *testing.T) {
	t.Parallel()
	s := bundles(t, 3, nil)
	attempts(t, "away", func(t *attempt) { etcdAway(t, s) })
	// It comes back without its data: the cluster knows what was in it. Nobody
	// who has not announced himself again yet passes for lost.
	carryOut(t, s, plan{
		name: "etcd emptied", at: usual, own: true, failures: -1,
		fault: func(tr *trial) {
			tr.Etcds[0].Kill()
			require.NoError(tr.t, os.RemoveAll(tr.Etcds[0].Dir))
			tr.Etcds[0].Launch(tr.site.t)
		},
	})
}

// Nobody notices that a member of an etcd of three is gone, the one that leads
// least of all.
func TestEtcdMemberKilled(t *testing.T) {
	t.Parallel()
	address := cluster.Net(t)
	var specs []cluster.Spec
	for i := range 3 {
		specs = append(specs, cluster.Spec{IP: address(i + 1)})
	}
	etcds := cluster.RunEtcds(t, binaries, address(200), address(201), address(202))
	s := newSite(t, cluster.RunBundles(t, binaries, etcds, specs), "127.0.0.1")
	carryOut(t, s, plan{
		name: "leader of etcd killed", at: usual, own: true,
		fault: func(tr *trial) {
			var killed *cluster.Etcd
			await(tr.t, joinLimit, "etcd is to have a leader", func() error {
				for _, e := range etcds {
					if e.Leads(tr.t) {
						killed = e
						return nil
					}
				}
				return errors.New("nobody leads")
			})
			killed.Kill()
			// What begins while there is no leader is served as well.
			f := tr.newFile(sizeOfSmall, 0)
			requireRight(tr.t, f, <-begin(tr.ctx, tr.t, peersAt(tr.t, 1, f.url, tr.there(cluster.Gateway), true)))
			tr.settleFile(tr.t, f)
			require.Equal(tr.t, f.Size, tr.sent(f))
		},
		after: back,
	})
}

// etcdAway kills etcd in the midst of downloads, and new tasks begin meanwhile.
// Nobody may notice, and when it is back every record is right.
func etcdAway(t *attempt, s *site) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trialLimit)
	defer cancel()
	s.comeBack(t)
	const third = 3
	var known, fresh []file
	var knownDone, freshDone []<-chan swarm.Tally
	for range downloads / third {
		f := s.newFile(sizeOfSmall, rateOfSmall)
		known, knownDone = append(known, f), append(knownDone, begin(ctx, t, peersAt(t, third, f.url, s.there(cluster.Gateway), true)))
	}
	for _, f := range known {
		require.NoError(t, s.source.Await(ctx, f.path, func(o origin.Stats) bool { return o.BytesSent >= f.Size/5 }))
	}
	s.Etcds[0].Kill()
	killed := time.Now()
	for range newTasks {
		f := s.newFile(sizeOfSmall, 0)
		fresh, freshDone = append(fresh, f), append(freshDone, begin(ctx, t, peersAt(t, 1, f.url, s.there(cluster.Gateway), true)))
	}
	for i, f := range fresh {
		requireRight(t, f, <-freshDone[i])
	}
	t.Logf("%d new tasks took %s without a store", newTasks, time.Since(killed))
	atLeast(storeAway - time.Since(killed))
	s.Etcds[0].Launch(s.t)
	back := time.Now()
	for i, f := range known {
		requireRight(t, f, <-knownDone[i])
	}
	all := append(known, fresh...)
	for _, f := range all {
		s.settleFile(t, f)
	}
	settled := time.Since(back)
	for _, f := range all {
		s.requireCached(ctx, t, f)
		require.Equal(t, f.Size, s.sent(f), "every file comes from the source once")
	}
	outcome{
		Fault: "etcd away, known and new tasks", At: 20, Peers: downloads + newTasks, Right: downloads + newTasks,
		MB: float64(sizeOfSmall) / 1e6, Source: 1, Bound: 1, Copies: 2, Settled: seconds(settled),
	}.log(t)
}
