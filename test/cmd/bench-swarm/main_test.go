package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/flood"
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
	err = carryOut(t.Context(), cfg, &out)
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

func TestOrdinaryPeersGetTheirFileDuringEveryFlood(t *testing.T) {
	rows := benchmark(t, "-flood", "all", "-flood-size", "50", "-settle", "10ms", "-peers", "3", "-pieces", "7", "-piece-time", "10ms")
	var floods []string
	for _, row := range rows {
		floods = append(floods, row["flood"])
		require.Equal(t, "3 peers, 1 task, 7 pieces, 10ms a piece", row["peers, tasks, pieces"])
		require.Equal(t, "0", row["failed"])
		require.Regexp(t, `^[\d.]+ s, [\d.]+ s$`, row["time"])
		require.Regexp(t, `^[\d.]+, [\d.]+$`, row["time over none"])
		require.Regexp(t, `^\d+/\d+/\d+/\d+$`, row["RSS MB before/peak/peak/after"])
		require.Regexp(t, `^\d+/\d+$`, row["goroutines before/after"])
	}
	require.Equal(t, []string{"none", "registrations", "urls", "pulls", "cut", "idle"}, floods)
	require.Equal(t, "200/200: 80, 400: 20", rows[1]["answers"], "every fifth id is malformed")
	require.Equal(t, "200/607: 100", rows[2]["answers"])
	require.Regexp(t, `^[1-9]\d*$`, rows[2]["requests at the source"])
	require.Regexp(t, `200/602: \d+`, rows[3]["answers"])
	require.Equal(t, "cut: 100", rows[4]["answers"])
	require.Equal(t, "open until the end: 100", rows[5]["answers"])
	for _, row := range rows[1:] {
		require.NotEqual(t, "0", row["sent"])
		require.Regexp(t, `^[\d.]+ s, [\d.]+ s$`, row["flood lasted"])
	}
}

func TestHealthyPeersAreComparedWithThemselvesInARunWithoutFaults(t *testing.T) {
	rows := benchmark(t, "-peers", "6", "-pieces", "5", "-piece-time", "5ms", "-crash", "0.2", "-unreachable", "0.2", "-lie", "0.2", "-compare", "-runs", "2")
	require.Len(t, rows, 4)
	const column = "last healthy peer (over healthy run)"
	for i := 0; i < len(rows); i += 2 {
		healthy, faulty := rows[i], rows[i+1]
		require.Equal(t, "6 peers, 1 task, 5 pieces, 5ms a piece", healthy["peers, tasks, pieces"])
		require.Contains(t, faulty["peers, tasks, pieces"], "20 % crash, 20 % unreachable, 20 % lie")
		require.Equal(t, "0", healthy["crashed"])
		require.Equal(t, "1", faulty["crashed"])
		require.Regexp(t, `^[\d.]+ s$`, healthy[column])
		require.Regexp(t, `^[\d.]+ s \([\d.]+\)$`, faulty[column])
	}
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
		"all peers are healthy":         "-compare -fail 0.1",
		"cannot be compared":            "-compare -soak 1m -lie 0.1",
		`the flood "water"`:             "-flood none,water",
		"cannot be given together":      "-flood all -soak 1m",
		"the size of a flood":           "-flood all -flood-size -1",
	} {
		_, err := parse(strings.Fields(args))
		require.ErrorContains(t, err, want, args)
	}
	require.ErrorContains(t, start(t.Context(), strings.Fields("-peers 99999 -pieces 1"), &bytes.Buffer{}), "peers are possible")
	cfg, err := parse(strings.Fields("-size 200"))
	require.NoError(t, err)
	require.Equal(t, 64, cfg.scenario.Pieces)
	require.Equal(t, "bundle", cfg.name())
	cfg, err = parse(strings.Fields("-flood all"))
	require.NoError(t, err)
	require.Equal(t, floodedPeers, cfg.scenario.Peers)
	require.Equal(t, floodedPieceTime, cfg.scenario.PieceTime)
	cfg, err = parse(strings.Fields("-flood none,idle -peers 1000 -piece-time 0s"))
	require.NoError(t, err)
	require.Equal(t, 1000, cfg.scenario.Peers)
	require.Zero(t, cfg.scenario.PieceTime)
	require.Equal(t, []flood.Kind{flood.None, flood.Idle}, cfg.floods)
}
