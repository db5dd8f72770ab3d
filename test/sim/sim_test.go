package sim

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

func runWith(t *testing.T, s scenario.Scenario, name string, cfg Config) *Result {
	t.Helper()
	p, err := policy.New(name, policy.Options{})
	require.NoError(t, err)
	r, err := Run(context.Background(), s, p, cfg)
	require.NoError(t, err)
	return r
}

func find(t *testing.T, name string) scenario.Scenario {
	t.Helper()
	s, found := scenario.Find(name)
	require.True(t, found)
	return s
}

func TestEveryPeerFinishesInASmallInstanceOfEveryScenario(t *testing.T) {
	for _, s := range scenario.All() {
		for _, name := range policy.Names() {
			t.Run(s.Name+"/"+name, func(t *testing.T) {
				small := s.Small(10, 20*scenario.MB)
				r := runWith(t, small, name, Defaults())
				assert.Zero(t, r.Left, "peers that have not finished")
				assert.Len(t, r.Times, small.Count()*small.Tasks-r.Crashed)
				assert.GreaterOrEqual(t, r.Copies, 0.99, "the CDN sends every piece")
			})
		}
	}
}

func TestARunIsRepeatedByItsSeed(t *testing.T) {
	for _, name := range policy.Names() {
		for _, title := range []string{"crash-30", "hang-10", "100-50MB", "five-tasks", "unreachable-30"} {
			t.Run(title+"/"+name, func(t *testing.T) {
				cfg := Defaults()
				s := find(t, title).Small(60, 20*scenario.MB)
				first := runWith(t, s, name, cfg)
				assert.Equal(t, first, runWith(t, s, name, cfg))
				cfg.Seed++
				assert.NotEqual(t, first.Times, runWith(t, s, name, cfg).Times)
			})
		}
	}
}

func TestNoPeerIsFasterThanItsLinkOrTheSource(t *testing.T) {
	for _, name := range []string{"one", "20x40", "limit", "slow-source", "slow-cdn", "asymmetric"} {
		t.Run(name, func(t *testing.T) {
			s := find(t, name).Small(40, 50*scenario.MB)
			r := runWith(t, s, "v1", Defaults())
			assert.GreaterOrEqual(t, r.Ratio(r.Last()), 1.0)
		})
	}
}

func TestOnePeerAloneNeedsLittleMoreThanItsLinkDoes(t *testing.T) {
	s := find(t, "one")
	s.Spread = 0
	r := runWith(t, s, "swarm", Defaults())
	assert.Less(t, r.Ratio(r.Last()), 1.2)
	assert.InDelta(t, 1, r.Copies, 0.001)
}

func TestHeadersTakeTheirShareOfTheLinks(t *testing.T) {
	s := find(t, "one")
	plain, headed := Defaults(), Defaults()
	headed.Overhead = 0.1
	a, b := runWith(t, s, "v1", plain), runWith(t, s, "v1", headed)
	assert.InDelta(t, 1.1, b.Last().Seconds()/a.Last().Seconds(), 0.03)
}

func TestAStepGivesNearlyWhatExactRatesGive(t *testing.T) {
	s := find(t, "100-50MB").Small(60, 50*scenario.MB)
	exact, stepped := Defaults(), Defaults()
	exact.Step, stepped.Step = time.Nanosecond, 20*time.Millisecond
	a, b := runWith(t, s, "v1", exact), runWith(t, s, "v1", stepped)
	assert.InEpsilon(t, a.Last().Seconds(), b.Last().Seconds(), 0.15)
	assert.Greater(t, a.Solves, b.Solves)
}

func TestTransfersFromAKilledPeerFailAtOnceAndThoseFromAVanishedOneHang(t *testing.T) {
	for _, name := range policy.Names() {
		t.Run(name, func(t *testing.T) {
			killed := find(t, "20x40")
			vanished := killed
			killed.Crash, vanished.Vanish = 0.3, 0.3
			a, b := runWith(t, killed, name, Defaults()), runWith(t, vanished, name, Defaults())
			for _, r := range []*Result{a, b} {
				assert.Zero(t, r.Left)
				assert.Equal(t, 6, r.Crashed)
			}
			assert.Positive(t, a.Failures)
			assert.Less(t, a.Last(), b.Last())
		})
	}
}

func TestPhasesAddUpToTheRun(t *testing.T) {
	r := runWith(t, find(t, "20x40"), "swarm", Defaults())
	p := r.Phases()
	assert.Positive(t, p.Ramp)
	assert.Positive(t, p.End)
	plateau := r.LastPiece - p.Ramp - p.End
	assert.Greater(t, plateau, r.LastPiece/2)
	assert.InEpsilon(t, float64(20*r.PieceCount), p.Plateau*plateau.Seconds(), 0.25)
	assert.Less(t, r.Idle, 0.5)
}
