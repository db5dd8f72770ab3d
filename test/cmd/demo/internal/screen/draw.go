// Package screen draws a scene as text, and puts it on a terminal or, line by
// line, wherever else. Drawing is pure; what is drawn is given.
package screen

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
)

const (
	mostKills = 6  // that are listed
	leastCell = 38 // columns of a peer
	barsApart = "  "
)

// Draw gives the lines of a scene, none of them wider than width if that is
// enough for one peer.
func Draw(s scene.Scene, width int) []string {
	lines := []string{
		fmt.Sprintf("%.1f s   %d peers, one file of %d MB, %.0f %% of it sent by the source   seed %d",
			s.Elapsed.Seconds(), len(s.Peers), s.Size/1e6, 100*ratio(s.Sent, s.Size), s.Seed),
		"",
	}
	for _, n := range s.Supernodes {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%s  %-8s  %s", n.Name, n.Status, strings.Join(n.Parts, ", ")), " "))
	}
	lines = append(append(lines, ""), bars(s.Peers, width)...)
	lines = append(lines, "", fmt.Sprintf("kill -9, %d so far", len(s.Kills)))
	for _, k := range s.Kills[max(0, len(s.Kills)-mostKills):] {
		lines = append(lines, kill(k))
	}
	return lines
}

// bars gives the peers in columns, as many as there is room for.
func bars(peers []scene.Peer, width int) []string {
	columns := max(1, (width+len(barsApart))/(leastCell+len(barsApart)))
	rows := (len(peers) + columns - 1) / columns
	cell := (width+len(barsApart))/columns - len(barsApart)
	lines := make([]string, rows)
	for i, p := range peers {
		row := i % max(rows, 1)
		if i >= rows {
			lines[row] += barsApart
		}
		lines[row] += bar(i+1, p, cell)
	}
	return lines
}

// bar is one peer: how far it is, whom it talks to, and how often it migrated.
func bar(number int, p scene.Peer, width int) string {
	// Rounded down: only who has everything has 100 %.
	end := fmt.Sprintf(" %3d %% %-11s %2d mig", int(100*p.Share), p.Supernode, p.Migrations)
	room := max(1, width-utf8.RuneCountInString(end)-3)
	full := min(room, int(float64(room)*p.Share))
	return fmt.Sprintf("%2d ", number) + strings.Repeat("█", full) + strings.Repeat("·", room-full) + end
}

func kill(k scene.Kill) string {
	was, back := "nothing to the task", "is down"
	if len(k.Parts) > 0 {
		was = strings.Join(k.Parts, ", ")
	}
	if k.Down > 0 {
		back = fmt.Sprintf("down for %.1f s", k.Down.Seconds())
	}
	return fmt.Sprintf("%6.1f s  %s  %s; %s", k.At.Seconds(), k.Supernode, was, back)
}

// Tell gives the lines of a tally.
func Tell(t scene.Tally) []string {
	return []string{
		fmt.Sprintf("downloads right     %d of %d", t.Right, t.Peers),
		fmt.Sprintf("wrong bytes         %d", t.Wrong),
		fmt.Sprintf("back to the source  %d", t.BackToSource),
		fmt.Sprintf("source sent         %.3fx the file", ratio(t.Sent, t.Size)),
		fmt.Sprintf("migrations          %d", t.Migrations),
		fmt.Sprintf("worst stall         %.1f s without a new piece", t.Stall.Seconds()),
		fmt.Sprintf("kills               %d in %.1f s (DEMO_SEED=%d)", t.Kills, t.Took.Seconds(), t.Seed),
	}
}

func ratio(part, whole int64) float64 { return float64(part) / float64(max(whole, 1)) }
