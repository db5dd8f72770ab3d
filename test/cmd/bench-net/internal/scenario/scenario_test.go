package scenario_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/scenario"
)

func equal(hosts int, rate, server int64, size int64) scenario.Scenario {
	return scenario.Scenario{
		Hosts: hosts, Rates: []scenario.Share{{Part: 1, Rate: rate * scenario.Mbit}}, Server: server * scenario.Mbit,
		Size: size * scenario.MB, Supernodes: 1, Seed: 1,
	}
}

func TestBoundIsTheLargestOfTheThreeTerms(t *testing.T) {
	require.Equal(t, scenario.Bound{Time: 10 * time.Second, Term: "F/dmin"}, equal(20, 40, 80, 50).Bound())
	require.Equal(t, scenario.Bound{Time: 20 * time.Second, Term: "F/dmin"}, equal(40, 20, 80, 50).Bound())
	require.Equal(t, scenario.Bound{Time: 5 * time.Second, Term: "F/Us"}, equal(1, 100, 80, 50).Bound())
	b := equal(20, 100, 40, 50).Bound() // 20 × 400 Mbit over 2,040 Mbit/s
	require.Equal(t, scenario.Bound{Time: 10 * time.Second, Term: "F/Us"}, b)
	unreachable := equal(20, 40, 80, 50)
	unreachable.Unreachable = 0.5 // 20 × 400 Mbit over 80 + 10 × 40 Mbit/s
	b = unreachable.Bound()
	require.Equal(t, "N·F/(Us+ΣUi)", b.Term)
	require.InDelta(t, 8000.0/480, b.Time.Seconds(), 1e-6)
	unreachable.Arrive = time.Minute
	require.Equal(t, scenario.Bound{Time: 10 * time.Second, Term: "F/dmin"}, unreachable.Bound())
}

func TestSharesOfTheHostsAreDrawnFromTheSeed(t *testing.T) {
	s := equal(20, 40, 80, 50)
	var err error
	s.Rates, err = scenario.ParseRates("0.8:100,0.2:10")
	require.NoError(t, err)
	s.Unreachable, s.Crash, s.Arrive = 0.3, 0.3, 20*time.Second
	clients := s.Clients()
	require.Equal(t, clients, s.Clients())
	slow, unreachable, killed := 0, 0, 0
	for i, c := range clients {
		require.Equal(t, time.Duration(i)*time.Second, c.Arrive)
		if c.Rate == 10*scenario.Mbit {
			slow++
		}
		if c.Unreachable {
			unreachable++
		}
		if c.Crash > 0 {
			killed++
			require.Less(t, c.Crash, s.Bound().Time+s.Bound().Time)
		}
	}
	require.Equal(t, 4, slow)
	require.Equal(t, 6, unreachable)
	require.Equal(t, 6, killed)
	other := s
	other.Seed = 2
	require.NotEqual(t, clients, other.Clients())
}

func TestParametersThatCannotBeRunAreRefused(t *testing.T) {
	require.NoError(t, equal(20, 40, 80, 50).Check())
	for _, change := range []func(*scenario.Scenario){
		func(s *scenario.Scenario) { s.Hosts = 0 },
		func(s *scenario.Scenario) { s.Size = 0 },
		func(s *scenario.Scenario) { s.Rates = nil },
		func(s *scenario.Scenario) { s.Supernodes = 2 },
		func(s *scenario.Scenario) { s.KillOwner = 0.5 },
		func(s *scenario.Scenario) { s.Crash = 1 },
	} {
		s := equal(20, 40, 80, 50)
		change(&s)
		require.Error(t, s.Check())
	}
	for _, text := range []string{"", "100", "0.5:", "x:1", "0.5:0"} {
		_, err := scenario.ParseRates(text)
		require.Error(t, err, text)
	}
}
