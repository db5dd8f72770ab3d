package play

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/peer"
)

func TestASeedNamesWhatHappens(t *testing.T) {
	blows := func(seed uint64) (list []blow) {
		p := newPlan(seed)
		for range 10 {
			list = append(list, p.next())
		}
		return list
	}
	require.Equal(t, blows(1), blows(1))
	require.NotEqual(t, blows(1), blows(2))
	require.Equal(t, newPlan(1).comes, newPlan(1).comes)
	victims := make(map[int]bool)
	for _, b := range blows(1) {
		victims[b.victim] = true
	}
	require.Greater(t, len(victims), 1)
}

func TestAPeerIsFollowed(t *testing.T) {
	c := newCrowd(100, map[string]string{"a:1": "supernode-1", "b:1": "supernode-2"})
	start := time.Now()
	after := func(seconds int, e peer.Event) {
		e.Time = start.Add(time.Duration(seconds) * time.Second)
		c.observe(0)(e)
	}
	require.Equal(t, scene.Peer{}, c.peers()[0], "it has not come yet")
	require.Zero(t, c.stall(start.Add(time.Hour)))

	after(0, peer.Event{Kind: peer.Registered, Node: "a:1"})
	after(2, peer.Event{Kind: peer.Arrived, Range: "0-49", Bytes: 50})
	after(3, peer.Event{Kind: peer.Registered, Node: "a:1", Err: errors.New("refused")})
	after(3, peer.Event{Kind: peer.Registered, Node: "b:1"})
	after(3, peer.Event{Kind: peer.Migrated, Node: "b:1"})
	after(4, peer.Event{Kind: peer.Arrived, Range: "0-49", Bytes: 50}) // is not new
	require.Equal(t, scene.Peer{Share: 0.5, Supernode: "supernode-2", Migrations: 1}, c.peers()[0])
	require.Equal(t, 5*time.Second, c.stall(start.Add(7*time.Second)), "it waits still")

	after(5, peer.Event{Kind: peer.Arrived, Range: "50-99", Bytes: 50})
	require.InDelta(t, 1, c.peers()[0].Share, 0)
	require.Equal(t, 3*time.Second, c.stall(start.Add(time.Hour)), "it has everything")
}
