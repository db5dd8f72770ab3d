package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/play"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/screen"
	"github.com/supernode-ha/supernode/test/stage"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	cluster.Main(m, func(built *cluster.Binaries) { binaries = built })
}

// The demonstration, small: it is played as it is shown, with real supernodes
// that are killed, and tells at the end that every download was right.
func TestDemonstrationEndsWell(t *testing.T) {
	// The seed has the first kill soon, and the source takes long enough for it.
	cfg := play.Config{Seed: 1, Size: 26_000_000, Rate: 2_000_000}
	path := filepath.Join(t.TempDir(), "screen")
	out, err := os.Create(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, out.Close()) })
	require.NoError(t, stage.Run(t.Context(), "demo", t.Output(), func(s *stage.Stage) { perform(s, binaries, cfg, screen.New(out)) }))
	shown, err := os.ReadFile(path)
	require.NoError(t, err)
	t.Logf("%s", shown)
	require.Contains(t, string(shown), "downloads right     20 of 20")
	require.Contains(t, string(shown), "wrong bytes         0")
	require.Contains(t, string(shown), "back to the source  0")
	require.Regexp(t, `kills +[1-9]`, string(shown))
}
