// Package e2e asks the built commands, run as processes, for what their users
// ask of them.
package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	cluster.Main(m, func(built *cluster.Binaries) { binaries = built })
}

// limit bounds every download of a test.
const limit = 3 * time.Minute

func source(t *testing.T) *origin.Origin {
	t.Helper()
	o, err := origin.Start(origin.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	return o
}

func file(size int64, seed uint64) (origin.File, string) {
	return origin.File{Size: size, Seed: seed, ETag: fmt.Sprintf(`"%d-%d"`, size, seed)}, origin.MD5(size, seed)
}

// peers makes n configurations that differ in what must differ.
func peers(t *testing.T, n int, url string, nodes ...string) []peer.Config {
	t.Helper()
	address := cluster.Net(t)
	buffers := &peer.Buffers{}
	configs := make([]peer.Config, n)
	for i := range configs {
		configs[i] = peer.Config{
			Nodes: []string{nodes[i%len(nodes)]}, IP: address(1 + i%250), Dir: t.TempDir(),
			URL: url, NoBackSource: true, Buffers: buffers,
		}
	}
	return configs
}

// download runs the peers at once and requires that all of them have the right bytes.
func download(t *testing.T, sum string, configs []peer.Config) swarm.Tally {
	t.Helper()
	s, err := swarm.New(configs)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tally := s.Download(ctx)
	t.Log(tally)
	require.NoError(t, tally.Err())
	for i, o := range tally.Outcomes {
		require.Equal(t, sum, o.MD5, "peer %d", i)
	}
	return tally
}

// onlyCodesOfAHealthyCluster requires that no pull was answered in a way that
// makes a client leave.
func onlyCodesOfAHealthyCluster(t *testing.T, tally swarm.Tally) {
	t.Helper()
	for code := range tally.Codes {
		require.Contains(t, []int{600, 601, 602}, code)
	}
	require.Zero(t, tally.Migrations)
	require.Zero(t, tally.BackToSource)
}
