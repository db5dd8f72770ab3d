package faults

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
)

// What happens to one process of a cluster in which every service is a process
// of its own. Clients know one gateway each, and never have to leave it.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	plans := []plan{{name: "nothing", at: usual, own: true}}
	for _, at := range killedAt() {
		plans = append(plans, plan{
			name: "owner killed", at: at, own: true, failures: -1, spare: inFlight(), epochs: 1,
			fault: func(tr *trial) { tr.owner().Kill() },
			after: back,
		})
	}
	plans = append(plans, plan{
		name: "replica killed", at: usual, own: true, failures: -1,
		fault: func(tr *trial) { tr.replica().Kill() },
		after: back,
	}, plan{
		name: "owner and replica killed", at: usual, own: true, failures: -1, spare: sizeOfFile*usual/100 + inFlight(), epochs: 2,
		fault: func(tr *trial) {
			tr.owner().Kill()
			tr.replica().Kill()
		},
		after: back,
	}, plan{
		name: "owner told to stop", at: usual, own: true, failures: peersOfTrial / 2, spare: inFlight(), epochs: 1,
		fault: func(tr *trial) { require.NoError(tr.t, tr.owner().Stop()) },
		after: back,
	}, plan{
		name: "registry killed", at: usual, own: true,
		fault: func(tr *trial) { tr.All(cluster.Registry)[0].Kill() },
		after: back,
	}, plan{
		name: "scheduler killed", at: usual, own: true, failures: -1, epochs: 1,
		fault: func(tr *trial) { tr.scheduler().Kill() },
		after: back,
	}, plan{
		// What had come of a piece when it was cut off comes again.
		name: "source cut off during a takeover", at: usual, own: true, failures: -1, spare: inFlight() + 2*sizeOfFile/10, epochs: 1,
		fault: func(tr *trial) {
			cut := tr.file.File
			cut.CutAfter, cut.CutRequests = cut.Size/10, 2
			tr.source.Change(tr.file.path, cut)
			tr.owner().Kill()
		},
		after: back,
	})
	if large {
		plans = append(plans, plan{
			name: "gateway killed", at: usual, failures: -1,
			fault: func(tr *trial) { tr.All(cluster.Gateway)[0].Kill() },
			after: back,
		})
	}
	carryOut(t, services(t, 3), append(plans, held()...)...)
}

// back starts what has ended again.
func back(tr *trial) { tr.comeBack(tr.t) }

// A process that is held looks alive to everybody who does not wait for an
// answer. When it goes on it must find out that it has been replaced. Clients
// that are reading from it are stuck for as long as it is held, or for the time
// that they give a piece.
func held() []plan {
	plans := []plan{{
		name: "owner held, let go when it is replaced", at: 30, slower: 2, own: true, failures: -1, spare: inFlight(), epochs: 1,
		fault: func(tr *trial) {
			owner := tr.owner()
			hold(tr, owner)
			tr.awaitReplaced()
			require.NoError(tr.t, owner.Signal(syscall.SIGCONT))
			delete(tr.away, owner)
		},
		after: letGo,
	}}
	if large {
		plans = append(plans, plan{
			name: "owner held, let go after the end", at: usual, own: true, failures: -1, spare: inFlight(), epochs: 1,
			fault: func(tr *trial) { hold(tr, tr.owner()) },
			after: letGo,
		})
	}
	return plans
}

// awaitReplaced waits until the record names another owner than at the fault.
func (tr *trial) awaitReplaced() {
	tr.t.Helper()
	await(tr.t, joinLimit, "the owner is to be replaced", func() error {
		rec, err := tr.Record(tr.file.id)
		if err == nil && rec.GetOwner() == tr.rec.GetOwner() {
			err = fmt.Errorf("the owner is still %s", rec.GetOwner())
		}
		return err
	})
}

func hold(tr *trial, n *cluster.Node) {
	require.NoError(tr.t, n.Signal(syscall.SIGSTOP))
	tr.away[n] = true
}

// letGo lets go on what is held, when it has been held for long enough.
func letGo(tr *trial) {
	atLeast(frozenFor - time.Since(tr.faulted))
	tr.comeBack(tr.t)
}
