package swarm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSourceThatFailsAPeerIsAvoidedByThatPeerOnly(t *testing.T) {
	s := newSwarm(t, 1, "bad", "a", "b")
	require.NoError(t, s.Written("bad", 0, size, start))
	require.Equal(t, "bad", s.Offer("a", start)[0].SourceID)
	failed(t, s, "a", 0, "bad", start)
	require.True(t, s.Offer("a", start)[0].FromCDN)
	require.Equal(t, "bad", s.Offer("b", start)[0].SourceID, "other peers still use it")
	require.NoError(t, s.Restarted("a"))
	later := start.Add(avoidFor + time.Second)
	s.Tick(later)
	require.Equal(t, "bad", s.Offer("a", later)[0].SourceID, "it is offered again after a while")
}

func TestSourceThatFailsRepeatedlyIsBlockedForAllPeersForAMinute(t *testing.T) {
	ids := []string{"bad", "a", "b", "c", "d", "e", "f"}
	s := newSwarm(t, 1, ids...)
	require.NoError(t, s.Written("bad", 0, size, start))
	for _, id := range ids[1:6] {
		failed(t, s, id, 0, "bad", start)
	}
	require.True(t, s.Offer("f", start)[0].FromCDN)
	require.NoError(t, s.Restarted("f"))
	require.Equal(t, "bad", s.Offer("f", start.Add(blockFor))[0].SourceID)
}

func TestPeerThatFailsWithManySourcesDownloadsFromTheCDNOnly(t *testing.T) {
	s := newSwarm(t, 2, "a", "b", "c", "d", "e", "f", "blocked")
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		require.NoError(t, s.Written(id, 0, size, start))
		require.NoError(t, s.Written(id, 1, size, start))
	}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		failed(t, s, "blocked", 0, id, start)
	}
	for _, o := range s.Offer("blocked", start) {
		require.True(t, o.FromCDN)
	}
}

func TestCDNThatFailsIsOfferedAgainAfterItsPause(t *testing.T) {
	s := newSwarm(t, 1, "a")
	offers := s.Offer("a", start)
	failed(t, s, "a", 0, offers[0].SourceID, start)
	require.Empty(t, s.Offer("a", start))
	require.Len(t, s.Offer("a", start.Add(cdnPause)), 1)
}

func TestLostPiecesAreNotOfferedFromThatPeer(t *testing.T) {
	s := newSwarm(t, 2, "holder", "a")
	require.NoError(t, s.Written("holder", 0, size, start))
	require.NoError(t, s.Written("holder", 1, size, start))
	s.Lost("holder", 0)
	for _, o := range s.Offer("a", start) {
		require.Equal(t, o.Num == 0, o.FromCDN)
	}
	require.NoError(t, s.Restarted("a"))
	s.Lost("holder", -1)
	s.Lost("unknown", -1)
	for _, o := range s.Offer("a", start) {
		require.True(t, o.FromCDN)
	}
}

func failed(t *testing.T, s *Swarm, id string, num int32, from string, now time.Time) {
	t.Helper()
	_, err := s.Failed(id, num, size, from, now)
	require.NoError(t, err)
}

// A client repeats its report for as long as it is answered to wait. If each
// repetition counted, a healthy source would be blocked for a single failure.
func TestRepeatedFailureReportCountsOnce(t *testing.T) {
	s := newSwarm(t, 1, "a")
	offers := s.Offer("a", start)
	require.Len(t, offers, 1)
	for i := range 10 {
		isNew, err := s.Failed("a", 0, size, offers[0].SourceID, start)
		require.NoError(t, err)
		require.Equal(t, i == 0, isNew)
	}
	later := start.Add(2 * cdnPause)
	again := s.Offer("a", later)
	require.Len(t, again, 1, "one failure causes one pause")
	isNew, err := s.Failed("a", 0, size, again[0].SourceID, later)
	require.NoError(t, err)
	require.True(t, isNew, "the piece was offered again in between")
}
