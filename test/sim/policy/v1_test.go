package policy

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func v1With(t *testing.T, peers, pieces int) Task {
	t.Helper()
	p, err := New("v1", Options{})
	require.NoError(t, err)
	task := p.NewTask(Info{Pieces: int32(pieces), Peers: peers}, rand.New(rand.NewPCG(1, 1)))
	for i := range peers {
		task.AddPeer(i, 0)
	}
	for i := range pieces {
		task.Landed(0, int32(i), 100, 0)
	}
	return task
}

func nums(offers []Offer) []int32 {
	list := make([]int32, len(offers))
	for i, o := range offers {
		list[i] = o.Num
	}
	return list
}

func TestV1GivesFourPiecesOfATaskFromTheSupernodeAtOnce(t *testing.T) {
	task := v1With(t, 2, 9)
	offers, _ := task.Offer(0, 0)
	assert.Len(t, offers, 4)
	none, idle := task.Offer(1, 0)
	assert.Empty(t, none)
	assert.Equal(t, Wait, idle)
	_, idle = task.Offer(0, 0)
	assert.Equal(t, Nothing, idle, "its slots are taken")
	task.SemiSuccess(0, offers[0].Num, 0)
	next, _ := task.Offer(1, 0)
	assert.Len(t, next, 1)
}

func TestV1GivesTheRarestPiecesFirstThenTheNearestToThoseRunning(t *testing.T) {
	task := v1With(t, 3, 8)
	for _, num := range []int32{0, 1, 2} {
		task.Got(0, num, 0)
	}
	task.Got(1, 2, 0)
	offers, _ := task.Offer(2, 0)
	assert.Equal(t, []int32{3, 4, 5, 6}, nums(offers))
	for _, o := range offers {
		require.True(t, o.From.IsCDN())
		task.SemiSuccess(2, o.Num, 0)
	}
	offers, _ = task.Offer(2, 0)
	assert.Equal(t, []int32{7, 0, 1, 2}, nums(offers))
	assert.Equal(t, Source(0), offers[1].From)
}

func TestV1SendsAPeerThatFailsTooOftenToTheSupernode(t *testing.T) {
	task := v1With(t, 8, 1)
	for i := range 7 {
		task.Got(i, 0, 0)
	}
	seen := make(map[Source]bool)
	for range v1MaxFailures + 1 {
		offers, _ := task.Offer(7, 0)
		require.Len(t, offers, 1)
		require.False(t, offers[0].From.IsCDN())
		require.False(t, seen[offers[0].From], "a source that failed is avoided")
		seen[offers[0].From] = true
		task.Failed(7, 0, offers[0].From, 0)
	}
	offers, _ := task.Offer(7, 0)
	require.Len(t, offers, 1)
	assert.True(t, offers[0].From.IsCDN())
}
