package download

import (
	"context"
	"fmt"
	"io"
	"math"

	"golang.org/x/time/rate"
)

const (
	// countInterval is the number of bytes after which a transfer counts them,
	// without a limit. It is small because the rate is measured from the count
	// several times per second.
	countInterval = 256 << 10
	// With a limit, transfers take turns. A turn is the number of bytes that all
	// transfers together send in 1/turnsPerSecond s, within minTurn and maxTurn.
	turnsPerSecond = 20
	minTurn        = 4 << 10
	maxTurn        = 64 << 10
)

// pace limits the rate at which transfers send.
type pace struct {
	limiter *rate.Limiter // shared by all transfers; nil for no limit
	turn    int64         // bytes that a transfer sends at a time
}

func newPace(bandwidth int64) pace {
	if bandwidth <= 0 {
		return pace{turn: countInterval}
	}
	turn := min(max(bandwidth/turnsPerSecond, minTurn), maxTurn)
	burst := max(turn, bandwidth/50) // the bytes of 20 ms, which a late timer would lose
	return pace{limiter: rate.NewLimiter(rate.Limit(bandwidth), int(min(burst, math.MaxInt32))), turn: turn}
}

// copy copies length bytes and calls count for each part that is sent. Transfers that
// share a limit are served in the order in which they wait, so that each gets the
// same rate. copy calls deadline to extend the write deadline for the next n bytes;
// the caller has set it for the first chunk. If copy returns an error, it also
// returns the number of bytes that were not sent.
func (p pace) copy(
	ctx context.Context, to io.Writer, from io.Reader, length int64, deadline func(n int64) error, count func(n int64),
) (missing int64, err error) {
	granted := int64(chunk)
	for length > 0 {
		next := min(length, p.turn)
		if p.limiter != nil {
			if err := p.limiter.WaitN(ctx, int(next)); err != nil {
				return length, fmt.Errorf("waiting for bandwidth: %w", err)
			}
			granted = 0 // the wait has consumed a part of the time
		}
		if granted < next {
			if err := deadline(chunk); err != nil {
				return length, err
			}
			granted = chunk
		}
		n, err := io.CopyN(to, from, next)
		count(n)
		length -= n
		granted -= n
		if err != nil {
			return length, err
		}
	}
	return 0, nil
}
