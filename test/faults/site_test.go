package faults

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/operator"
	"github.com/supernode-ha/supernode/test/origin"
)

const (
	pollEvery = 50 * time.Millisecond
	joinLimit = time.Minute
)

// site is a cluster with a source, and who asks its registries.
type site struct {
	*cluster.Layout
	*operator.Operator
	source *origin.Origin

	// t is the test that the processes end with.
	t *testing.T
	// away are nodes that run and cannot be asked.
	away map[*cluster.Node]bool
}

func newSite(t *testing.T, layout *cluster.Layout, sourceIP string) *site {
	t.Helper()
	o, err := origin.Start(origin.Config{Address: sourceIP + ":0"})
	require.NoError(t, err)
	s := &site{Layout: layout, source: o, t: t, away: make(map[*cluster.Node]bool)}
	s.Operator = operator.New(func() []*cluster.Node { return s.there(cluster.Registry) })
	t.Cleanup(func() {
		s.Close()
		require.NoError(t, o.Close())
	})
	s.awaitMembers(t)
	return s
}

// bundles is a cluster of n supernodes.
func bundles(t *testing.T, n int, alter func(i int, spec *cluster.Spec)) *site {
	t.Helper()
	address := cluster.Net(t)
	specs := make([]cluster.Spec, n)
	for i := range specs {
		specs[i].IP = address(i + 1)
		if alter != nil {
			alter(i, &specs[i])
		}
	}
	return newSite(t, cluster.RunBundles(t, binaries, cluster.RunEtcds(t, binaries, address(200)), specs), "127.0.0.1")
}

// services is a cluster of n processes of each kind.
func services(t *testing.T, n int) *site {
	t.Helper()
	address := cluster.Net(t)
	return newSite(t, cluster.RunServices(t, binaries, cluster.RunEtcds(t, binaries, address(200)), cluster.AtAddresses(address), n, nil), "127.0.0.1")
}

// await polls until there is nothing to say against it.
func await(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	timer, ticker := time.NewTimer(limit), time.NewTicker(pollEvery)
	defer timer.Stop()
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-timer.C:
			t.Fatalf("%s, after %s: %v", what, limit, err)
		case <-ticker.C:
		}
	}
}

// atLeast waits.
func atLeast(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// there gives the nodes of a role that run and can be asked.
func (s *site) there(r cluster.Role) []*cluster.Node {
	return slices.DeleteFunc(s.Running(r), func(n *cluster.Node) bool { return s.away[n] })
}

// record gives what a registry says of a task, as soon as one answers.
func (s *site) record(t testing.TB, id string) (rec *registryv1.TaskRecord) {
	t.Helper()
	await(t, joinLimit, "a registry is to answer", func() (err error) {
		rec, err = s.Record(id)
		return err
	})
	return rec
}

// states are those of the members of a role, as a registry sees them.
func (s *site) states(n *cluster.Node, role registryv1.Role) (map[string]registryv1.MemberState, error) {
	states := make(map[string]registryv1.MemberState)
	err := s.AskAt(n, func(ctx context.Context, c registryv1.RegistryServiceClient) error {
		resp, err := c.ListMembers(ctx, &registryv1.ListMembersRequest{Roles: []registryv1.Role{role}})
		for _, m := range resp.GetMembers() {
			states[m.GetId()] = m.GetState()
		}
		return err
	})
	return states, err
}

// awaitState waits until every running registry knows a node, as a member of a
// role, in a state.
func (s *site) awaitState(t testing.TB, node *cluster.Node, role registryv1.Role, want registryv1.MemberState) {
	t.Helper()
	await(t, joinLimit, fmt.Sprintf("%s is to be %s", node.Name, want), func() error {
		for _, r := range s.there(cluster.Registry) {
			states, err := s.states(r, role)
			if err != nil {
				return err
			}
			if got := states[node.ID]; got != want {
				return fmt.Errorf("%s says that it is %s", r.Name, got)
			}
		}
		return nil
	})
}

// awaitMembers waits until every registry knows all CDNs and schedulers that run.
func (s *site) awaitMembers(t testing.TB) {
	t.Helper()
	for _, cdn := range s.there(cluster.CDN) {
		s.awaitState(t, cdn, registryv1.Role_ROLE_CDN, registryv1.MemberState_MEMBER_STATE_READY)
	}
	for _, scheduler := range s.there(cluster.Scheduler) {
		s.awaitState(t, scheduler, registryv1.Role_ROLE_SCHEDULER, registryv1.MemberState_MEMBER_STATE_READY)
	}
}

// mark sets or takes away an operator's mark on a CDN: what is marked gets
// nothing new.
func (s *site) mark(t testing.TB, cdn *cluster.Node, drain bool) {
	t.Helper()
	await(t, joinLimit, "the mark is to be set", func() error { return s.setMark(cdn, drain) })
	want := registryv1.MemberState_MEMBER_STATE_READY
	if drain {
		want = registryv1.MemberState_MEMBER_STATE_DRAINING
	}
	s.awaitState(t, cdn, registryv1.Role_ROLE_CDN, want)
}

func (s *site) setMark(cdn *cluster.Node, drain bool) error {
	return s.Ask(func(ctx context.Context, c registryv1.RegistryServiceClient) error {
		_, err := c.DrainMember(ctx, &registryv1.DrainMemberRequest{Role: registryv1.Role_ROLE_CDN, Id: cdn.ID, Drain: drain})
		return err
	})
}

// comeBack starts again what has ended, lets go on what is held, and waits until
// all are known.
func (s *site) comeBack(t testing.TB) {
	t.Helper()
	for _, e := range s.Etcds {
		if !e.Running() {
			e.Launch(s.t)
		}
	}
	for _, n := range s.Nodes {
		if !n.Running() {
			n.Launch(s.t)
			continue
		}
		require.NoError(t, n.Signal(syscall.SIGCONT))
		delete(s.away, n)
	}
	for _, n := range s.Nodes {
		n.Await(t)
	}
	s.awaitMembers(t)
}
