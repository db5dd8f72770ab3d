package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	cluster.Main(m, func(built *cluster.Binaries) { binaries = built })
}

// benchmark runs the benchmark as the command does, and returns the cells of the
// rows of its table by column.
func benchmark(t *testing.T, args ...string) []map[string]string {
	t.Helper()
	cfg, err := parse(append(args, "-bin", binaries.Dir()))
	require.NoError(t, err)
	cfg.server.Etcd = binaries
	var out bytes.Buffer
	if cfg.soak > 0 {
		err = soakFor(t.Context(), cfg, &out)
	} else {
		err = bench(t.Context(), cfg, &out)
	}
	t.Logf("\n%s", out.String())
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	columns := cells(lines[0])
	var rows []map[string]string
	for _, line := range lines[2:] {
		row := make(map[string]string)
		values := cells(line)
		require.Len(t, values, len(columns))
		for i, name := range columns {
			row[name] = values[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func cells(line string) []string { return strings.Split(strings.Trim(line, "| "), " | ") }

func TestEveryPeerGetsItsFileWhateverGoesWrongWithOthers(t *testing.T) {
	// The seed gives each fault to another peer.
	rows := benchmark(t, "-peers", "5", "-pieces", "7", "-piece-time", "2ms", "-fail", "0.1", "-crash", "0.2", "-unreachable", "0.2", "-lie", "0.2", "-seed", "2")
	require.Len(t, rows, 1)
	row := rows[0]
	require.Equal(t, "5 peers, 1 task, 7 pieces, 2ms a piece, 10 % of the pieces fail, 20 % crash, 20 % unreachable, 20 % lie", row["peers, tasks, pieces"])
	require.Equal(t, "1", row["crashed"])
	require.Equal(t, "0", row["failed"])
	require.Contains(t, row["answers to pulls"], "600: 4")
	for _, column := range []string{"register", "pull 601", "pull 600", "report"} {
		require.Regexp(t, `^[\d.]+/[\d.]+/[\d.]+$`, row[column], column)
	}
	require.Regexp(t, `^\d+\.\d\d$`, row["copies from the CDN"])
	for _, column := range []string{"CPU", "ms/call", "peak RSS MB", "allocs/call", "KB/call", "allocs/peer", "heap in use MB", "of all CPU"} {
		require.Regexp(t, `^[\d.]+`, row[column], column)
	}
}

func TestServicesAsProcessesServeManyFiles(t *testing.T) {
	rows := benchmark(t, "-peers", "6", "-tasks", "3", "-pieces", "4", "-processes", "4", "-runs", "2")
	require.Len(t, rows, 2)
	for _, row := range rows {
		require.Equal(t, "4 processes", row["supernode"])
		require.Equal(t, "0", row["failed"])
		require.Contains(t, row["answers to pulls"], "600: 6")
	}
}

func TestSupernodeThatRunsFetchesTheFilesFirst(t *testing.T) {
	s := cluster.StartSupernode(t, binaries, cluster.Net(t)(1), t.TempDir())
	rows := benchmark(t, "-address", s.REST, "-peers", "4", "-tasks", "2", "-size", "2.5")
	require.Equal(t, "4 peers, 2 tasks, 3 pieces", rows[0]["peers, tasks, pieces"])
	require.Equal(t, "0", rows[0]["failed"])
	require.Equal(t, "–", rows[0]["CPU"], "no process id is known")
	require.NotEqual(t, "–", rows[0]["allocs/call"])
}

func TestSoakReplacesPeersAndFiles(t *testing.T) {
	rows := benchmark(t, "-soak", "2s", "-peers", "5", "-pieces", "3", "-churn", "50", "-every", "500ms", "-report", "600ms")
	require.GreaterOrEqual(t, len(rows), 2)
	last := rows[len(rows)-1]
	require.Equal(t, "0", last["failed"])
	require.NotEqual(t, "1", last["tasks"])
	require.NotEqual(t, last["arrived"], "5")
	require.Regexp(t, `^\d+$`, last["goroutines"])
}

func TestParametersThatCannotBeRunAreRefused(t *testing.T) {
	for want, args := range map[string]string{
		"0 peers":                       "-peers 0",
		"crash 1:":                      "-crash 1",
		"flag provided but not defined": "-speed 1",
		`unexpected argument "more"`:    "more",
		"a run":                         "-runs 0",
		"is neither in 127.0.0.0/8":     "-address 10.0.0.1:8002",
		"no process id":                 "-address 127.0.0.1:8002 -pid x",
		"1 or 4":                        "-processes 3",
		"follows from the time":         "-soak 1m -tasks 2",
	} {
		_, err := parse(strings.Fields(args))
		require.ErrorContains(t, err, want, args)
	}
	require.ErrorContains(t, start(t.Context(), strings.Fields("-peers 99999 -pieces 1"), &bytes.Buffer{}), "peers are possible")
	cfg, err := parse(strings.Fields("-size 200"))
	require.NoError(t, err)
	require.Equal(t, 64, cfg.scenario.Pieces)
	require.Equal(t, "bundle", cfg.name())
}
