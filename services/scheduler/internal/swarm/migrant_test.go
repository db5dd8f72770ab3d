package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// dfget simulates how a client answers offers. It reports pieces that arrive and
// offered pieces that it already has. A pull carries only the latest of these
// reports, and the client sends no pull while more than two downloads run.
type dfget struct {
	t             *testing.T
	s             *Swarm
	id            string
	complete      map[int32]bool // false while it is being downloaded
	written       []int32        // pieces whose separate report has not been sent
	nextReport    int32          // the piece that the next pull reports, or -1
	downloads     map[int32]int  // number of downloads of each piece
	probes        map[int32]int  // number of offers of each unreported piece that it has
	maxRunning    int            // maximum number of simultaneous downloads
	answeredPulls int            // number of answered pulls
	pullHeld      bool           // the last pull was not answered
}

func newMigrant(t *testing.T, s *Swarm, has ...int32) *dfget {
	t.Helper()
	c := &dfget{t: t, s: s, id: "m", complete: map[int32]bool{}, nextReport: has[0], downloads: map[int32]int{}, probes: map[int32]int{}}
	for _, num := range has {
		c.complete[num] = true
	}
	s.AddPeer(peerInfo(c.id, 99), start)
	require.NoError(t, s.Restarted(c.id))
	return c
}

func (c *dfget) running() (list []int32) {
	for num, here := range c.complete {
		if !here {
			list = append(list, num)
		}
	}
	return list
}

// pull sends the next report and processes the answer. A held pull is tried
// again. It does nothing while more than two downloads run.
func (c *dfget) pull() {
	if c.nextReport < 0 && !c.pullHeld || len(c.running()) > 2 {
		return
	}
	if c.nextReport >= 0 {
		require.NoError(c.t, c.s.SemiSuccess(c.id, c.nextReport, size, start))
		c.nextReport = -1
	}
	offers := c.s.Offer(c.id, start)
	if c.pullHeld = len(offers) == 0 && !c.s.Finished(c.id); !c.pullHeld {
		c.answeredPulls++
	}
	for _, o := range offers {
		here, known := c.complete[o.Num]
		switch {
		case here:
			c.nextReport = o.Num
			if !o.Repeated {
				c.probes[o.Num]++
			}
		case !known:
			c.complete[o.Num] = false
			c.downloads[o.Num]++
		}
	}
	c.maxRunning = max(c.maxRunning, len(c.running()))
}

// finish completes downloads. The last one replaces the next pull's report.
func (c *dfget) finish(pieces ...int32) {
	for _, num := range pieces {
		c.complete[num], c.nextReport = true, num
		c.written = append(c.written, num)
	}
}

func (c *dfget) sendReports() {
	for _, num := range c.written {
		require.NoError(c.t, c.s.Written(c.id, num, size, start))
	}
	c.written = nil
}

func (c *dfget) requireAll(pieces int) {
	c.t.Helper()
	require.True(c.t, c.s.Finished(c.id))
	require.Len(c.t, c.complete, pieces)
	for num, times := range c.downloads {
		require.Equal(c.t, 1, times, "piece %d", num)
	}
	require.Empty(c.t, c.s.peers[c.id].running)
	for _, copied := range c.s.copies {
		require.Zero(c.t, copied.running)
	}
	checkBooks(c.t, c.s)
}

// oddPieces returns the odd piece numbers.
func oddPieces(pieces int) (nums []int32) {
	for num := int32(1); num < int32(pieces); num += 2 {
		nums = append(nums, num)
	}
	return nums
}

// No time passes in this test, so no lease expires.
func TestMigrantIsOfferedAndDownloadsEachPieceOnce(t *testing.T) {
	const pieces = 200
	for down := 1; down <= 4; down++ {
		t.Run(fmt.Sprint("down=", down), func(t *testing.T) {
			s := newSwarm(t, pieces)
			s.limits.Down = down
			has := oddPieces(pieces)
			c := newMigrant(t, s, has...)
			for !s.Finished(c.id) {
				before := c.answeredPulls
				c.pull()
				require.LessOrEqual(t, len(s.peers[c.id].running), min(down, 3))
				if c.answeredPulls == before { // the pull is held: let a download end
					c.finish(c.running()[0])
					c.sendReports()
				}
			}
			c.requireAll(pieces)
			for _, num := range has[1:] {
				require.Equal(t, 1, c.probes[num], "piece %d", num)
			}
			require.Len(t, c.downloads, pieces-len(has))
			require.Equal(t, min(down, 3), c.maxRunning, "it uses all of its download slots")
		})
	}
}

// Downloads end at random, several at once, and reports are lost. No time passes.
func TestMigrantFinishesWithoutWaitingForLeasesWhenReportsAreLost(t *testing.T) {
	for seed := range uint64(200) {
		down := 1 + int(seed%4)
		t.Run(fmt.Sprintf("%d,down=%d", seed, down), func(t *testing.T) {
			const pieces = 60
			random := rand.New(rand.NewPCG(seed, 0))
			s := newSwarm(t, pieces)
			s.limits.Down = down
			c := newMigrant(t, s, oddPieces(pieces)...)
			// These downloads were running when the peer came.
			c.complete[0], c.complete[2] = false, false
			c.downloads[0], c.downloads[2] = 1, 1
			for i := 0; !s.Finished(c.id); i++ {
				require.Less(t, i, 50*pieces, "the peer makes no progress")
				running := c.running()
				if random.IntN(3) == 0 || c.nextReport < 0 || len(running) > 2 {
					c.finish(running[:min(len(running), 1+random.IntN(2))]...)
				}
				c.pull()
				if random.IntN(2) == 0 {
					c.sendReports()
				}
			}
			c.sendReports()
			c.requireAll(pieces)
		})
	}
}

func TestPeerWhoseFirstReportNamesAPieceThatWasNotOfferedIsAMigrant(t *testing.T) {
	s := newSwarm(t, 10, "new", "fails", "from elsewhere")
	s.Offer("new", start)
	require.NoError(t, s.Restarted("new"))
	require.NoError(t, s.Written("new", 9, size, start))
	require.NotEqual(t, migrant, s.peers["new"].origin, "it received an offer from this swarm")
	require.ErrorIs(t, s.Written("from elsewhere", 0, size/2, start), ErrNoPiece)
	require.NotEqual(t, migrant, s.peers["from elsewhere"].origin, "its pieces have another size")
	failed(t, s, "fails", 3, "unknown source", start)
	require.Equal(t, migrant, s.peers["fails"].origin)
	require.Len(t, s.Offer("fails", start), 1, "there is no sentinel yet")

	again := restoredSwarm(t, s.Changes(true))
	require.Equal(t, migrant, again.peers["fails"].origin)
	require.NoError(t, again.SemiSuccess("new", 0, size, start))
	require.NotEqual(t, migrant, again.peers["new"].origin, "the restored state contains all of its pieces")
}

// The scheduler died after the registration was replicated and before the peer's
// first pull.
func TestRestoredPeerThatReceivedNoOfferCanBecomeAMigrant(t *testing.T) {
	s := newSwarm(t, 10, "came", "new")
	again := restoredSwarm(t, s.Changes(true))
	again.SetCopy(s.Copies()[0])
	for num := range int32(10) {
		require.NoError(t, again.Landed("cdn", num, md5Of(int(num)), size))
	}
	require.NoError(t, again.SemiSuccess("came", 3, size, start))
	require.Equal(t, migrant, again.peers["came"].origin)
	require.NotEmpty(t, again.Offer("new", start))
	require.NoError(t, again.SemiSuccess("new", 3, size, start))
	require.NotEqual(t, migrant, again.peers["new"].origin, "it received an offer from this swarm")
}

func TestPeerThatReportsAPieceThatHasNotLandedIsAMigrant(t *testing.T) {
	s := newSwarm(t, 0)
	require.NoError(t, s.SetFacts("cdn", Facts{Length: 3 * (size - 5), PieceSize: size}))
	s.result = nil
	s.AddPeer(peerInfo("a", 1), start)
	require.ErrorIs(t, s.SemiSuccess("a", 1, size, start), ErrNotYet)
	require.Equal(t, migrant, s.peers["a"].origin)
	require.Empty(t, s.Offer("a", start))
	require.NoError(t, s.Landed("cdn", 0, md5Of(0), size))
	require.Len(t, s.Offer("a", start), 1)
}

// A migrant reports a piece that it already has at once, which says nothing about
// the speed of the source.
func TestMigrantsReportDoesNotChangeTheSourcesPieceTime(t *testing.T) {
	s := newSwarm(t, 2, "sender")
	require.NoError(t, s.Written("sender", 0, size, start))
	require.NoError(t, s.Written("sender", 1, size, start))
	c := newMigrant(t, s, 0, 1)
	c.pull()
	require.Equal(t, 1, s.peers["sender"].uploads)
	c.pull()
	require.Zero(t, s.peers["sender"].uploads, "the slot is released at once")
	require.Zero(t, s.peers["sender"].sendTime)
	require.Zero(t, s.pieceTime)
	require.True(t, s.Finished("m"))
}
