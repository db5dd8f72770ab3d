package flood

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/pace"
)

// dialPause is the time between two attempts to open a connection that failed.
const dialPause = time.Second

// idle keeps connections open until the context ends, and sends nothing. A
// connection that the server closes is opened again.
func (f *Flood) idle(ctx context.Context) {
	var all sync.WaitGroup
	for range f.cfg.Size {
		all.Go(func() {
			for ctx.Err() == nil {
				f.idleOnce(ctx)
			}
		})
	}
	all.Wait()
}

func (f *Flood) idleOnce(ctx context.Context) {
	dialer := net.Dialer{Timeout: dialLimit}
	conn, err := dialer.DialContext(ctx, "tcp4", f.cfg.Address)
	if err != nil && ctx.Err() != nil {
		return
	}
	f.tally.sent.Add(1)
	if err != nil {
		f.tally.count(neverOpened)
		_ = pace.Pause(ctx, dialPause) // the caller sees whether the context has ended
		return
	}
	shut := func() { _ = conn.Close() } // nothing was wanted of it
	defer shut()
	unblock := context.AfterFunc(ctx, shut)
	defer unblock()
	var one [1]byte
	_, _ = conn.Read(one[:]) // any end will do
	if ctx.Err() != nil {
		f.tally.count(leftOpen)
		return
	}
	f.tally.count(closedByPeer)
}
