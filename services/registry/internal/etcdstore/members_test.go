package etcdstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// A member may change through one registry and change back through another
// that has not heard of the first change.
func TestHeartbeatIsHeldAgainstTheStore(t *testing.T) {
	s, _, _ := openStore(t)
	snapshot, err := s.listEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(snapshot)
	other := New(s.conn, cache.New(), s.metrics, s.log, s.ttl)
	ready := someCDN("c")
	draining := ready
	draining.State = record.StateDraining
	for i, m := range []record.Member{ready, draining, ready, draining} {
		_, err := []*Store{s, other}[i%2].Heartbeat(t.Context(), m)
		require.NoError(t, err)
		scene, err := s.Look(t.Context(), someTask)
		require.NoError(t, err)
		require.Equal(t, m, scene.Members[m.Key()], "heartbeat %d", i)
	}
}
