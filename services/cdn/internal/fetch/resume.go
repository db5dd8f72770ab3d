package fetch

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/source"
)

// mostAttempts is how often a fetch is continued at one place. A source that
// cuts every answer off, but not before it has sent another piece, gets a fetch
// to its end.
const mostAttempts = 3

// resume continues the content at offset after it was cut off because of
// cause. What comes is of the same version as before, or the fetch is broken.
func (p *pipeline) resume(ctx context.Context, offset int64, cause error) error {
	if !p.first.Resumable() {
		return source.Broken("%v at byte %d or later, and it cannot go on there", cause, offset)
	}
	if offset > p.resumed {
		p.attempts, p.resumed = 0, offset
	}
	for p.attempts < mostAttempts {
		delay := p.options.RetryDelay << p.attempts
		p.attempts++
		p.log.Warn("the source was cut off, going on", zap.Error(cause),
			zap.Int64("offset", offset), zap.Int("attempt", p.attempts))
		// Half of the delay is left to chance: many fetches may have been cut at once.
		if err := wait(ctx, delay/2+rand.N(delay/2+1)); err != nil {
			return err
		}
		next, err := p.session.Resume(ctx, p.first, offset)
		if err == nil {
			p.close()
			p.body = next
			return nil
		}
		if ctx.Err() != nil || !source.Transient(err) {
			return err
		}
		cause = err
	}
	return source.Broken("%v at byte %d or later, after %d attempts to go on", cause, offset, p.attempts)
}

func wait(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
