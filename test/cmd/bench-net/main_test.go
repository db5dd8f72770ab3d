package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/client"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == client.OwnCommand {
		if err := client.Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var code int
	if binaries, code = cluster.Isolated(true, false); binaries == nil {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// benchmark runs one scenario as the command does, and returns its table.
func benchmark(t *testing.T, args ...string) string {
	t.Helper()
	cfg, err := parse(append(args, "-bin", binaries.Dir()))
	require.NoError(t, err)
	cfg.run.Etcd = binaries
	var out bytes.Buffer
	require.NoError(t, bench(t.Context(), cfg, &out))
	t.Logf("\n%s", out.String())
	return out.String()
}

func TestRunWithEverythingThatCanGoWrongEndsRight(t *testing.T) {
	out := benchmark(t, "-hosts", "6", "-rates", "0.5:400,0.5:200", "-server", "800", "-size", "20", "-arrive", "1s",
		"-unreachable", "0.3", "-crash", "0.2", "-supernodes", "3", "-kill-owner", "0.5")
	require.Contains(t, out, "| own | 0.80 s F/dmin |")
	require.Contains(t, out, "3 supernodes, owner killed at 50 %")
	require.Regexp(t, `\| 0 \| 0 \|\n$`, out, "no client without an upload server, none that ended wrong")
}

func TestOneSupernodeSendsAFileToOneHostOnce(t *testing.T) {
	out := benchmark(t, "-hosts", "1", "-rate", "400", "-server", "800", "-size", "5")
	require.Regexp(t, `\| 1\.00 \| 1\.00 \| \d+ \|`, out, "copies, and what the source sent")
}

func TestParametersThatCannotBeRunAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-hosts", "300"}, {"-runs", "0"}, {"-rates", "x"}, {"more"}, {"-kill-owner", "0.5"}} {
		_, err := parse(args)
		require.Error(t, err, args)
	}
	cfg, err := parse(nil)
	require.NoError(t, err)
	require.Len(t, cfg.scenarios, 2)
}
