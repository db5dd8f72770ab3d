package screen

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
)

func moment() scene.Scene {
	return scene.Scene{
		Seed: 7, Elapsed: 12340 * time.Millisecond, Size: 200e6, Sent: 50e6,
		Supernodes: []scene.Supernode{
			{Name: "supernode-1", Status: scene.Up, Parts: []string{"owner", "scheduler"}},
			{Name: "supernode-2", Status: scene.Killed},
		},
		Peers: []scene.Peer{{Share: 0.5, Supernode: "supernode-1", Migrations: 3}, {Share: 0.999, Supernode: "supernode-2"}, {}},
		Kills: []scene.Kill{
			{At: 3 * time.Second, Supernode: "supernode-1", Parts: []string{"replica", "standby"}, Down: 2500 * time.Millisecond},
			{At: 12 * time.Second, Supernode: "supernode-2"},
		},
	}
}

func TestASceneIsDrawn(t *testing.T) {
	require.Equal(t, []string{
		"12.3 s   3 peers, one file of 200 MB, 25 % of it sent by the source   seed 7",
		"",
		"supernode-1  up        owner, scheduler",
		"supernode-2  killed",
		"",
		" 1 ██████·······  50 % supernode-1  3 mig   3 ·············   0 %              0 mig",
		" 2 ████████████·  99 % supernode-2  0 mig",
		"",
		"kill -9, 2 so far",
		"   3.0 s  supernode-1  replica, standby; down for 2.5 s",
		"  12.0 s  supernode-2  nothing to the task; is down",
	}, Draw(moment(), 84))
}

func TestPeersFitTheWidth(t *testing.T) {
	s := moment()
	s.Peers = make([]scene.Peer, 20)
	for width, rows := range map[int]int{20: 20, 80: 10, 84: 10, 126: 7, 1000: 1} {
		lines := bars(s.Peers, width)
		require.Len(t, lines, rows, "width %d", width)
		for _, line := range lines {
			require.LessOrEqual(t, utf8.RuneCountInString(line), max(width, leastCell))
		}
	}
	require.Empty(t, bars(nil, 80))
}

func TestOnlyTheLastKillsAreListed(t *testing.T) {
	s := moment()
	s.Kills = nil
	for i := range 20 {
		s.Kills = append(s.Kills, scene.Kill{At: time.Duration(i) * time.Second, Supernode: "supernode-1"})
	}
	lines := Draw(s, 84)
	require.Contains(t, lines, "kill -9, 20 so far")
	require.Contains(t, lines[len(lines)-1], "19.0 s")
	require.Contains(t, lines[len(lines)-mostKills], "14.0 s")
}

func TestATallyIsTold(t *testing.T) {
	require.Equal(t, []string{
		"downloads right     19 of 20",
		"wrong bytes         1",
		"back to the source  0",
		"source sent         1.250x the file",
		"migrations          12",
		"worst stall         2.5 s without a new piece",
		"kills               6 in 45.1 s (DEMO_SEED=7)",
	}, Tell(scene.Tally{
		Seed: 7, Peers: 20, Right: 19, Wrong: 1, Size: 200, Sent: 250, Migrations: 12, Kills: 6,
		Stall: 2500 * time.Millisecond, Took: 45100 * time.Millisecond,
	}))
}

func TestATerminalIsWrittenOverAndNeverScrolls(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, writeOver(&out, []string{"█████", "b", "c"}, 3, 2))
	require.Equal(t, home+"███"+eraseLine+"\r\nb"+eraseLine+eraseRest, out.String())
	out.Reset()
	require.NoError(t, writeOver(&out, []string{"a", "b", "c"}, 3, 0))
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
}
