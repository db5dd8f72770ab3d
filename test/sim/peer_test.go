package sim

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

// script is a policy and its one task: it offers what the test says, and notes
// what the client reports and when.
type script struct {
	offers func(pull int, now time.Duration) []policy.Offer
	hold   time.Duration

	pieces  int32
	landed  int32
	got     map[int32]bool
	pulls   []time.Duration
	reports []int32

	held, ready bool // its peer's pull
}

func (s *script) Name() string          { return "script" }
func (s *script) PieceSize(int64) int32 { return 1 << 20 }
func (s *script) Hold() time.Duration   { return s.hold }
func (s *script) Err() error            { return nil }

func (s *script) NewTask(info policy.Info, _ *rand.Rand) policy.Task {
	s.pieces, s.got = info.Pieces, make(map[int32]bool)
	return s
}

func (s *script) AddPeer(int, time.Duration)            {}
func (s *script) Started(_ int, now time.Duration)      { s.pulls = append(s.pulls, now) }
func (s *script) Seen(_ int, now time.Duration)         { s.pulls = append(s.pulls, now) }
func (s *script) Got(_ int, num int32, _ time.Duration) { s.got[num] = true }

func (s *script) SemiSuccess(_ int, num int32, _ time.Duration) {
	s.got[num] = true
	s.reports = append(s.reports, num)
}

func (s *script) Failed(int, int32, policy.Source, time.Duration) {}

func (s *script) Offer(_ int, now time.Duration) ([]policy.Offer, policy.Idle) {
	if s.landed < s.pieces {
		return nil, policy.Wait
	}
	return s.offers(len(s.pulls), now), policy.Wait
}

func (s *script) Again(int, time.Duration) []policy.Offer     { return nil }
func (s *script) Undelivered(int, []policy.Offer)             {}
func (s *script) Finished(int) bool                           { return s.pieces > 0 && len(s.got) == int(s.pieces) }
func (s *script) Attach(int)                                  {}
func (s *script) Landed(_ int, num, _ int32, _ time.Duration) { s.landed, s.ready = num+1, s.held }
func (s *script) Whole(int)                                   { s.ready = s.held }
func (s *script) Tick(time.Duration)                          { s.ready = s.held }
func (s *script) HoldPull(int, time.Duration)                 { s.held, s.ready = true, true }
func (s *script) Next(time.Duration) (peer int, ok bool)      { return 0, s.ready }
func (s *script) Denied(int, time.Duration)                   { s.ready = false }
func (s *script) Release(int)                                 { s.held, s.ready = false, false }

// offer gives pieces from the CDN, of different lengths so that they end one
// after the other.
func offer(nums ...int32) []policy.Offer {
	list := make([]policy.Offer, len(nums))
	for i, num := range nums {
		list[i] = policy.Offer{Num: num, Length: 200_000 * (num + 1), From: policy.CDN(0)}
	}
	return list
}

func follow(t *testing.T, s *script, length int64) *Result {
	t.Helper()
	world := scenario.Scenario{
		Name: "script", Hosts: []scenario.Hosts{{Count: 1, Up: scenario.MB, Down: scenario.MB}}, Length: length, Tasks: 1,
		CDN: 100 * scenario.MB, Instances: 1, Source: 1000 * scenario.MB,
	}
	cfg := Defaults()
	cfg.Queue, cfg.Write = 0, time.Microsecond
	r, err := Run(context.Background(), world, s, cfg)
	require.NoError(t, err)
	return r
}

func TestAClientPullsOnlyWhenAtMostTwoPiecesRun(t *testing.T) {
	s := &script{hold: 3 * time.Second}
	given := false
	s.offers = func(int, time.Duration) []policy.Offer {
		if given {
			return nil
		}
		given = true
		return offer(0, 1, 2, 3)
	}
	r := follow(t, s, 4_100_000)
	assert.Zero(t, r.Left)
	assert.Equal(t, int32(1), s.reports[0], "the first piece that ended was reported with the second")
}

func TestAClientSleepsLongerAfterEachAnswerWithoutPieces(t *testing.T) {
	s := &script{}
	s.offers = func(pull int, _ time.Duration) []policy.Offer {
		if pull < 12 {
			return nil
		}
		return offer(0)
	}
	r := follow(t, s, 500_000)
	assert.Zero(t, r.Left)
	last := s.pulls[11] - s.pulls[10]
	assert.GreaterOrEqual(t, last, lastSleep)
	assert.Less(t, last, 2*lastSleep+10*time.Millisecond)
	assert.Less(t, s.pulls[1]-s.pulls[0], 2*firstSleep+10*time.Millisecond)
}

func TestAPullIsHeldNoLongerThanThePolicySays(t *testing.T) {
	s := &script{hold: 3 * time.Second}
	s.offers = func(pull int, _ time.Duration) []policy.Offer {
		if pull < 2 {
			return nil
		}
		return offer(0)
	}
	r := follow(t, s, 500_000)
	assert.Zero(t, r.Left)
	held := s.pulls[1] - s.pulls[0]
	assert.GreaterOrEqual(t, held, s.hold)
	assert.Less(t, held, s.hold+pace+2*firstSleep+10*time.Millisecond)
}

func TestAPieceThatIsThereAlreadyIsReportedAtOnce(t *testing.T) {
	s := &script{hold: 3 * time.Second}
	s.offers = func(pull int, _ time.Duration) []policy.Offer {
		switch pull {
		case 1:
			return offer(0)
		case 2:
			return append(offer(0), offer(1)...)
		}
		return nil
	}
	r := follow(t, s, 1_500_000)
	assert.Zero(t, r.Left)
	assert.Equal(t, []int32{0, 0}, s.reports[:2])
	assert.Less(t, s.pulls[2]-s.pulls[1], 10*time.Millisecond)
}
