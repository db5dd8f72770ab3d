package etcdstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// A member may change through one registry, and change back through another one whose
// cache lacks the first change.
func TestHeartbeatIsComparedWithTheStoreAndNotWithTheCache(t *testing.T) {
	s, _, _ := openStore(t)
	snapshot, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(snapshot)
	other := New(s.conn, cache.New(), s.metrics, s.log, s.ttl)
	ready := someCDN("c")
	draining := ready
	draining.State = record.StateDraining
	for i, m := range []record.Member{ready, draining, ready, draining} {
		_, err := []*Store{s, other}[i%2].Heartbeat(t.Context(), m)
		require.NoError(t, err)
		state, err := s.ReadState(t.Context(), someTask)
		require.NoError(t, err)
		require.Equal(t, m, state.Members[m.Key()], "heartbeat %d", i)
	}
}
