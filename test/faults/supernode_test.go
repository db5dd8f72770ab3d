package faults

import (
	"context"
	"errors"
	"slices"
	"testing"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/test/cluster"
)

// A whole supernode is killed: its gateway, scheduler, CDN and registry at
// once. Clients know all three, as is recommended.
func TestOneSupernodeKilled(t *testing.T) {
	t.Parallel()
	plans := []plan{{
		// Nothing but rendezvous decides where it is.
		name: "supernode of owner and scheduler killed", at: usual, failures: -1, spare: inFlight(), epochs: 2,
		before: withRoom,
		meant: func(tr *trial) error {
			return unless(tr.owner() == tr.scheduler(), "owner and scheduler are apart")
		},
		fault: func(tr *trial) { tr.owner().Kill() },
		after: back,
	}, {
		name: "supernode of the owner killed", at: usual, slower: 3, failures: -1, spare: inFlight(), epochs: 1,
		before: apart, claimed: together,
		meant: func(tr *trial) error {
			return unless(tr.owner() != tr.scheduler(), "the owner is where the scheduler is")
		},
		fault: func(tr *trial) { tr.owner().Kill() },
		after: back,
	}, {
		name: "supernode of the scheduler killed", at: usual, slower: 3, failures: -1, epochs: 1,
		before: apart, claimed: together,
		meant: func(tr *trial) error {
			copies := append(tr.rec.GetReplicas(), tr.rec.GetOwner())
			return unless(!slices.Contains(copies, tr.scheduler().ID), "a copy is where the scheduler is")
		},
		fault: func(tr *trial) { tr.scheduler().Kill() },
		after: back,
	}, {
		name: "supernode of the replica killed", at: usual, slower: 3, failures: -1,
		before: apart, claimed: together,
		meant: func(tr *trial) error {
			return unless(tr.replica() != tr.scheduler(), "the replica is where the scheduler is")
		},
		fault: func(tr *trial) { tr.replica().Kill() },
		after: back,
	}, {
		name: "supernode of neither killed", at: usual, slower: 3, failures: -1,
		before:  func(tr *trial) { keepFrom(tr, bystander(tr)) },
		claimed: func(tr *trial) { tr.mark(tr.t, bystander(tr), false) },
		meant: func(tr *trial) error {
			used := []*cluster.Node{tr.owner(), tr.replica(), tr.scheduler()}
			return unless(!slices.Contains(used, bystander(tr)), "the task is at the one that is to be killed")
		},
		fault: func(tr *trial) { bystander(tr).Kill() },
		after: back,
	}}
	if large { // clients are stuck for a minute
		plans = append(plans, plan{
			name: "supernode of owner and scheduler held", at: usual, failures: -1, spare: inFlight(), epochs: 2,
			fault: func(tr *trial) { hold(tr, tr.owner()) },
			after: letGo,
		})
	}
	carryOut(t, bundles(t, 3, nil), plans...)
}

func unless(ok bool, what string) error {
	if ok {
		return nil
	}
	return errors.New(what)
}

// schedulerToBe is where the task's scheduler will be: the first in rendezvous
// order, as gateways ask it. The owner would be there too.
func schedulerToBe(tr *trial) *cluster.Node { return tr.schedulerToBe(tr.file) }

func (s *site) schedulerToBe(f file) *cluster.Node {
	var nodes []ring.Node
	for _, n := range s.there(cluster.Scheduler) {
		nodes = append(nodes, ring.Node{ID: n.ID, Weight: 1})
	}
	id, _ := ring.First(f.id, nodes)
	return s.Member(cluster.Scheduler, id)
}

// bystander is another one, the same every time.
func bystander(tr *trial) *cluster.Node {
	nodes, scheduler := tr.All(cluster.CDN), schedulerToBe(tr)
	return nodes[slices.IndexFunc(nodes, func(n *cluster.Node) bool { return n != scheduler })]
}

// withRoom gives the trial other files until nobody owns fewer tasks than the
// CDN where the scheduler will be: it has room for one more, whatever was before.
func withRoom(tr *trial) {
	owned := make(map[string]int32)
	await(tr.t, joinLimit, "the loads are to be told", func() error {
		return tr.Ask(func(ctx context.Context, c registryv1.RegistryServiceClient) error {
			resp, err := c.ListMembers(ctx, &registryv1.ListMembersRequest{})
			for _, l := range resp.GetLoads() {
				owned[l.GetCdnId()] = l.GetOwned()
			}
			return err
		})
	})
	fewest := func(n *cluster.Node) bool {
		return !slices.ContainsFunc(tr.there(cluster.CDN), func(other *cluster.Node) bool { return owned[other.ID] < owned[n.ID] })
	}
	for !fewest(schedulerToBe(tr)) {
		tr.putFile()
	}
}

// apart keeps the file from where the scheduler is, together allows it there
// again, when it lies elsewhere.
func apart(tr *trial)    { keepFrom(tr, schedulerToBe(tr)) }
func together(tr *trial) { tr.mark(tr.t, schedulerToBe(tr), false) }

func keepFrom(tr *trial, n *cluster.Node) {
	tr.t.Cleanup(func() { _ = tr.setMark(n, false) }) // the next trial begins without
	tr.mark(tr.t, n, true)
}
