package scenario_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
)

func plain() scenario.Scenario { return scenario.Scenario{Peers: 20, Tasks: 3, Pieces: 51, Seed: 1} }

func TestPeersAreDrawnFromTheSeed(t *testing.T) {
	s := plain()
	s.Ramp, s.Crash, s.Unreachable, s.Lie = 20*time.Second, 0.2, 0.3, 0.1
	peers := s.Draw()
	require.Equal(t, peers, s.Draw())
	crashed, unreachable, lying := 0, 0, 0
	for i, p := range peers {
		require.Equal(t, i%3, p.Task)
		require.Equal(t, time.Duration(i)*time.Second, p.Arrive)
		if p.CrashAfter > 0 {
			require.InDelta(t, 0.5, p.CrashAfter, 0.3)
			crashed++
		}
		if p.Unreachable {
			unreachable++
		}
		if p.Lies {
			lying++
		}
	}
	require.Equal(t, []int{4, 6, 2}, []int{crashed, unreachable, lying})
	other := s
	other.Seed = 2
	require.NotEqual(t, peers, other.Draw())
}

func TestSharesHoldForPeersThatAreDrawnOneByOne(t *testing.T) {
	s := plain()
	s.Crash, s.Unreachable, s.Lie = 0.2, 1, 0
	random := rand.New(rand.NewPCG(1, 1))
	crashed := 0
	for range 1000 {
		p := s.DrawOne(random)
		require.True(t, p.Unreachable)
		require.False(t, p.Lies)
		if p.CrashAfter > 0 {
			crashed++
		}
	}
	require.InDelta(t, 200, crashed, 60)
}

func TestScenarioIsNamed(t *testing.T) {
	s := plain()
	s.Tasks = 1
	require.Equal(t, "20 peers, 1 task, 51 pieces", s.String())
	s.Ramp, s.PieceTime, s.Fail, s.Lie = time.Second, 50*time.Millisecond, 0.05, 0.1
	require.Equal(t, "20 peers, 1 task, 51 pieces, arriving over 1s, 50ms a piece, 5 % of the pieces fail, 10 % lie", s.String())
}

func TestParametersThatCannotBeRunAreRefused(t *testing.T) {
	require.NoError(t, plain().Check())
	for want, change := range map[string]func(*scenario.Scenario){
		"0 peers":    func(s *scenario.Scenario) { s.Peers = 0 },
		"0 tasks":    func(s *scenario.Scenario) { s.Tasks = 0 },
		"-1 pieces":  func(s *scenario.Scenario) { s.Pieces = -1 },
		"negative":   func(s *scenario.Scenario) { s.Ramp = -1 },
		"fail 1:":    func(s *scenario.Scenario) { s.Fail = 1 },
		"crash -0.1": func(s *scenario.Scenario) { s.Crash = -0.1 },
		"lie NaN":    func(s *scenario.Scenario) { s.Lie = math.NaN() },
	} {
		s := plain()
		change(&s)
		require.ErrorContains(t, s.Check(), want)
	}
}
