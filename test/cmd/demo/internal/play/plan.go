package play

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/supernode-ha/supernode/test/pace"
)

const (
	supernodes = 3
	peers      = 20

	// A supernode is killed so long after the cluster became whole, and is down
	// so long. A member that is silent is lost after 5 s: some come back before.
	calmLeast, calmMost = time.Second, 5 * time.Second
	downLeast, downMost = time.Second, 7 * time.Second
	// Peers come within that time.
	crowding = 12 * time.Second
)

// blow is one kill.
type blow struct {
	calm   time.Duration // since the cluster was whole
	victim int
	down   time.Duration
}

// plan draws what happens. The same seed draws the same.
type plan struct {
	task   string          // the name that decides where the task lies
	comes  []time.Duration // when each peer comes
	random *rand.Rand
}

func newPlan(seed uint64) *plan {
	p := &plan{
		task:   fmt.Sprintf("http://demo/%d", seed),
		random: rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // it is to be reproducible
	}
	for range peers {
		p.comes = append(p.comes, pace.Between(p.random, 0, crowding))
	}
	return p
}

// next draws the next kill; there is always one more.
func (p *plan) next() blow {
	return blow{
		calm: pace.Between(p.random, calmLeast, calmMost), victim: p.random.IntN(supernodes),
		down: pace.Between(p.random, downLeast, downMost),
	}
}
