package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// clusterOf returns a cluster with the given members: "a" is a READY CDN in zone z,
// "a-" is a draining one, "a@x" is one in zone x, and "s:s" is a scheduler.
func clusterOf(copies int, members ...string) ownership.Cluster {
	all := make(map[record.MemberKey]record.Member)
	var cdns []record.Member
	for _, text := range members {
		m := record.Member{Role: record.RoleCDN, ID: text[:1], State: record.StateReady, Zone: "z"}
		switch {
		case len(text) == 3 && text[1] == ':':
			m = record.Member{Role: record.RoleScheduler, ID: text[2:], State: record.StateReady}
		case len(text) == 3:
			m.Zone = text[2:]
		case len(text) == 2:
			m.State = record.StateDraining
		}
		all[m.Key()] = m
		if m.Role == record.RoleCDN {
			cdns = append(cdns, m)
		}
	}
	return ownership.Cluster{
		Member: func(k record.MemberKey) (record.Member, bool) { m, ok := all[k]; return m, ok },
		CDNs:   func() []record.Member { return cdns },
		Load:   func(string) ownership.Load { return ownership.Load{} },
		Copies: copies,
	}
}

// recordOf returns the record of a finished task, with scheduler s and epoch 4.
func recordOf(owner string, replicas ...string) record.Task {
	return record.Task{
		ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Status: record.StatusSuccess,
		Owner: owner, Replicas: replicas, Scheduler: "s", Epoch: 4, Revision: 8,
	}
}

// cdns returns the member keys of CDNs.
func cdns(ids ...string) []record.MemberKey {
	var keys []record.MemberKey
	for _, id := range ids {
		keys = append(keys, record.MemberKey{Role: record.RoleCDN, ID: id})
	}
	return keys
}

// next returns the step for a request that succeeds.
func next(t *testing.T, cur record.Task, cluster ownership.Cluster, req ownership.Request) ownership.Step {
	t.Helper()
	step, err := ownership.Next(cur, cluster, req)
	require.NoError(t, err)
	require.Equal(t, cur.Revision, step.Next.Revision)
	return step
}

func assignment(t record.Task) []any { return []any{t.Owner, t.Replicas, t.Scheduler, t.Epoch} }

// requireRefused requires that a request fails with the given reason.
func requireRefused(t *testing.T, cur record.Task, cluster ownership.Cluster, req ownership.Request, reason rpcerr.Reason) {
	t.Helper()
	step, err := ownership.Next(cur, cluster, req)
	require.Equal(t, reason, rpcerr.ReasonOf(err), "%v", err)
	require.False(t, step.Changed)
}
