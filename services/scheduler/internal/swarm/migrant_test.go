package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// dfget is a client as it answers offers: what it has it tells again, what
// arrives it tells too, but of all that waits to be told only the last goes out
// with a pull, and none while more than two pieces are under way.
type dfget struct {
	t       *testing.T
	s       *Swarm
	id      string
	here    map[int32]bool // false for those under way
	written []int32        // reports that go their own way
	held    int32          // what is told next, -1 when there is nothing
	begun   map[int32]int  // how often each was fetched
	asked   map[int32]int  // how often it was offered each that it has and nobody knew of
	most    int            // under way at a time
	pulls   int            // that were answered
	waits   bool           // the last one was not
}

func migrated(t *testing.T, s *Swarm, has ...int32) *dfget {
	t.Helper()
	c := &dfget{t: t, s: s, id: "m", here: map[int32]bool{}, held: has[0], begun: map[int32]int{}, asked: map[int32]int{}}
	for _, num := range has {
		c.here[num] = true
	}
	s.AddPeer(peerInfo(c.id, 99), start)
	require.NoError(t, s.Restarted(c.id))
	return c
}

func (c *dfget) running() (list []int32) {
	for num, here := range c.here {
		if !here {
			list = append(list, num)
		}
	}
	return list
}

// pull tells what is held back, and takes the answer; one that is not answered
// is looked at again. It tells nothing while more than two pieces are under way.
func (c *dfget) pull() {
	if c.held < 0 && !c.waits || len(c.running()) > 2 {
		return
	}
	if c.held >= 0 {
		require.NoError(c.t, c.s.SemiSuccess(c.id, c.held, size, start))
		c.held = -1
	}
	offers := c.s.Offer(c.id, start)
	if c.waits = len(offers) == 0 && !c.s.Finished(c.id); !c.waits {
		c.pulls++
	}
	for _, o := range offers {
		here, known := c.here[o.Num]
		switch {
		case here:
			c.held = o.Num
			if !o.Repeated {
				c.asked[o.Num]++
			}
		case !known:
			c.here[o.Num] = false
			c.begun[o.Num]++
		}
	}
	c.most = max(c.most, len(c.running()))
}

// arrive ends pieces under way. What is told of a piece replaces what was to be.
func (c *dfget) arrive(pieces ...int32) {
	for _, num := range pieces {
		c.here[num], c.held = true, num
		c.written = append(c.written, num)
	}
}

func (c *dfget) report() {
	for _, num := range c.written {
		require.NoError(c.t, c.s.Written(c.id, num, size, start))
	}
	c.written = nil
}

func (c *dfget) requireAll(pieces int) {
	c.t.Helper()
	require.True(c.t, c.s.Finished(c.id))
	require.Len(c.t, c.here, pieces)
	for num, times := range c.begun {
		require.Equal(c.t, 1, times, "piece %d", num)
	}
	require.Empty(c.t, c.s.peers[c.id].running)
	for _, copied := range c.s.copies {
		require.Zero(c.t, copied.transfers)
		require.Zero(c.t, c.s.budget.Used(copied.Instance))
	}
	checkCounters(c.t, c.s)
}

// odd are the pieces with odd numbers.
func odd(pieces int) (nums []int32) {
	for num := int32(1); num < int32(pieces); num += 2 {
		nums = append(nums, num)
	}
	return nums
}

// No time passes: no slot waits for its lease.
func TestMigrantIsAskedOfEachPieceOnceAndFetchesEachOnce(t *testing.T) {
	const pieces = 200
	for down := 1; down <= 4; down++ {
		t.Run(fmt.Sprint("down=", down), func(t *testing.T) {
			s := newSwarm(t, pieces)
			s.limits.Down = down
			has := odd(pieces)
			c := migrated(t, s, has...)
			for !s.Finished(c.id) {
				before := c.pulls
				c.pull()
				require.LessOrEqual(t, len(s.peers[c.id].running), min(down, 3))
				if c.pulls == before { // the network is slower than the answers
					c.arrive(c.running()[0])
					c.report()
				}
			}
			c.requireAll(pieces)
			for _, num := range has[1:] {
				require.Equal(t, 1, c.asked[num], "piece %d", num)
			}
			require.Len(t, c.begun, pieces-len(has))
			require.Equal(t, min(down, 3), c.most, "it fetches as many at a time as it may")
		})
	}
}

// Pieces end at any moment, several together, and their reports go astray.
func TestMigrantWhoseAnswersAreLostWaitsForNothing(t *testing.T) {
	for seed := range uint64(200) {
		down := 1 + int(seed%4)
		t.Run(fmt.Sprintf("%d,down=%d", seed, down), func(t *testing.T) {
			const pieces = 60
			random := rand.New(rand.NewPCG(seed, 0))
			s := newSwarm(t, pieces)
			s.limits.Down = down
			c := migrated(t, s, odd(pieces)...)
			// It brings pieces along that were under way when it came.
			c.here[0], c.here[2] = false, false
			c.begun[0], c.begun[2] = 1, 1
			for i := 0; !s.Finished(c.id); i++ {
				require.Less(t, i, 50*pieces, "it stands still")
				running := c.running()
				if random.IntN(3) == 0 || c.held < 0 || len(running) > 2 {
					c.arrive(running[:min(len(running), 1+random.IntN(2))]...)
				}
				c.pull()
				if random.IntN(2) == 0 {
					c.report()
				}
			}
			c.report()
			c.requireAll(pieces)
		})
	}
}

func TestWhoIsAMigrant(t *testing.T) {
	s := newSwarm(t, 10, "new", "fails", "from elsewhere")
	s.Offer("new", start)
	require.NoError(t, s.Restarted("new"))
	require.NoError(t, s.Written("new", 9, size, start))
	require.False(t, s.peers["new"].migrant, "it began here, and is at another gateway now")
	require.ErrorIs(t, s.Written("from elsewhere", 0, size/2, start), ErrNoPiece)
	require.False(t, s.peers["from elsewhere"].migrant, "it has to begin anew, with pieces of another size")
	failed(t, s, "fails", 3, "somebody", start)
	require.True(t, s.peers["fails"].migrant)
	require.Len(t, s.Offer("fails", start), 1, "nothing is known yet that it has")

	again := restored(t, s.Changes(true))
	require.True(t, again.peers["fails"].migrant)
	require.NoError(t, again.SemiSuccess("new", 0, size, start))
	require.False(t, again.peers["new"].migrant, "all that it has is remembered")
}

// Its scheduler took it in, told the standby so, and died before its first pull.
func TestMigrantThatHadOnlyRegisteredIsOneAtTheStandbyToo(t *testing.T) {
	s := newSwarm(t, 10, "came", "new")
	again := restored(t, s.Changes(true))
	again.SetCopy(s.Copies()[0])
	for num := range int32(10) {
		require.NoError(t, again.Landed("cdn", num, md5Of(int(num)), size))
	}
	require.NoError(t, again.SemiSuccess("came", 3, size, start))
	require.True(t, again.peers["came"].migrant)
	require.Len(t, again.Offer("new", start), 4)
	require.NoError(t, again.SemiSuccess("new", 3, size, start))
	require.False(t, again.peers["new"].migrant, "it began here")
}

func TestMigrantOfATaskThatIsNotKnownYet(t *testing.T) {
	s := newSwarm(t, 0)
	require.NoError(t, s.SetFacts("cdn", Facts{Length: 3 * (size - 5), PieceSize: size}))
	s.result = nil
	s.AddPeer(peerInfo("a", 1), start)
	require.ErrorIs(t, s.SemiSuccess("a", 1, size, start), ErrNotYet)
	require.True(t, s.peers["a"].migrant)
	require.Empty(t, s.Offer("a", start))
	require.NoError(t, s.Landed("cdn", 0, md5Of(0), size))
	require.Len(t, s.Offer("a", start), 1)
}

// A client that has another piece for its answer says nothing of how fast the
// sender is.
func TestMigrantsAnswerSaysNothingOfTheSender(t *testing.T) {
	s := newSwarm(t, 2, "sender")
	require.NoError(t, s.Written("sender", 0, size, start))
	require.NoError(t, s.Written("sender", 1, size, start))
	c := migrated(t, s, 0, 1)
	c.pull()
	require.Equal(t, 1, s.peers["sender"].uploads)
	c.pull()
	require.Zero(t, s.peers["sender"].uploads, "the slot is free at once")
	require.Zero(t, s.peers["sender"].pieceTime)
	require.True(t, s.Finished("m"))
}
