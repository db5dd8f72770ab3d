package download

import (
	"context"
	"fmt"
	"io"
	"math"

	"golang.org/x/time/rate"
)

const (
	// step is the number of bytes after which what was sent is counted: the rate
	// is measured from it several times per second.
	step = 256 << 10
	// With a limit transfers take turns after as many bytes as all of them send in
	// 1/turns of a second, within leastTurn and mostTurn.
	turns     = 20
	leastTurn = 4 << 10
	mostTurn  = 64 << 10
)

// pace is the speed at which transfers send.
type pace struct {
	limiter *rate.Limiter // shared by all transfers; nil for no limit
	turn    int64         // bytes that are sent at a time
}

func newPace(bandwidth int64) pace {
	if bandwidth <= 0 {
		return pace{turn: step}
	}
	turn := min(max(bandwidth/turns, leastTurn), mostTurn)
	burst := max(turn, bandwidth/50) // what a timer that is 20 ms late would lose
	return pace{limiter: rate.NewLimiter(rate.Limit(bandwidth), int(min(burst, math.MaxInt32))), turn: turn}
}

// copy sends length bytes and counts them as they go. Transfers that share a
// limit are served in the order in which they wait, so that each gets the same
// rate. deadline grants the time for the next n bytes; that of the first chunk
// is granted already. It returns how many bytes are missing at an error.
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
			granted = 0 // the wait has used it up
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
