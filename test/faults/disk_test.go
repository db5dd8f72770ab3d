package faults

import (
	"testing"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
)

// The owner's disk is filled by somebody else.
func TestOwnersDiskFull(t *testing.T) {
	t.Parallel()
	s := bundles(t, 3, func(_ int, spec *cluster.Spec) { spec.Home = lab.Tmpfs(t, 2*sizeOfFile) })
	allowErrors(s)
	carryOut(t, s, plan{
		name: "owner's disk full", at: usual, slower: 2, own: true, failures: -1, spare: inMemory(), epochs: 1,
		fault: func(tr *trial) {
			free := lab.Fill(tr.t, tr.owner().Home)
			tr.t.Cleanup(free)
		},
	})
}

// The owner's disk fails, is slow, or hangs. Every supernode has a disk of its
// own that can do that.
func TestOwnersDiskFailing(t *testing.T) {
	t.Parallel()
	disks := make(map[string]*lab.Disk)
	s := bundles(t, 3, func(_ int, spec *cluster.Spec) {
		d := lab.NewDisk(t)
		disks[d.Dir], spec.Home, spec.Files = d, d.Dir, d.Backing
	})
	t.Cleanup(func() { // before they are told to stop, which takes a disk that answers
		for _, d := range disks {
			d.Heal()
		}
	})
	allowErrors(s)
	spoil := func(how func(*lab.Disk)) func(*trial) {
		return func(tr *trial) {
			d := disks[tr.owner().Home]
			tr.t.Cleanup(d.Heal)
			how(d)
		}
	}
	carryOut(t, s, plan{
		name: "owner's disk slow", at: usual, own: true,
		fault: spoil(func(d *lab.Disk) { d.Slow(100 * time.Millisecond) }),
	}, plan{
		name: "owner's disk fails", at: usual, own: true, failures: -1, spare: inMemory(), epochs: 1,
		fault: spoil((*lab.Disk).Fail),
	}, plan{
		name: "owner's disk hangs", at: usual, own: true, failures: -1, spare: inMemory(), epochs: 1,
		fault: spoil((*lab.Disk).Hang),
	})
}

// allowErrors lets processes log errors: that a disk is broken is one.
func allowErrors(s *site) {
	for _, n := range s.Nodes {
		n.Allow("")
	}
}
