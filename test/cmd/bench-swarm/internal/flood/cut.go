package flood

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
	"github.com/supernode-ha/supernode/test/pace"
)

const (
	dialLimit = 3 * time.Second
	// longestStay is how long a connection stays open after a whole request at most.
	longestStay = 10 * time.Millisecond
)

// The ways to cut a request off.
const (
	halfHead = iota
	halfBody
	wholeThenReset      // at once
	wholeThenResetLater // when the server may hold the pull
	cuts
)

// cutAll opens the flood's connections one after the other on each of its
// goroutines, and cuts each off.
func (f *Flood) cutAll(ctx context.Context) error {
	m, err := f.join(ctx)
	if err != nil {
		return err
	}
	f.workers(ctx, f.cfg.Size, func(next func() (int, bool)) {
		for i, more := next(); more; i, more = next() {
			f.tally.sent.Add(1)
			outcome := cutOff
			if err := f.cutOne(ctx, m, i%cuts); err != nil {
				outcome = neverOpened
			}
			f.tally.count(outcome)
		}
	})
	return nil
}

// cutOne cuts one request off. It returns an error if there is no connection.
func (f *Flood) cutOne(ctx context.Context, m member, how int) error {
	dialer := net.Dialer{Timeout: dialLimit}
	opened, err := dialer.DialContext(ctx, "tcp4", f.cfg.Address)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() { _ = opened.Close() }() // everything that was wanted of it has been sent
	conn, ok := opened.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("not a TCP connection: %T", opened)
	}
	if err := conn.SetLinger(0); err != nil { // Close resets the connection
		return fmt.Errorf("preparing a reset: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(dialLimit)); err != nil {
		return fmt.Errorf("preparing a write: %w", err)
	}
	_, _ = conn.Write(f.cutRequest(m, how)) // the server may have closed it
	if how == wholeThenResetLater {
		_ = pace.Pause(ctx, time.Duration(f.draw(int(longestStay)))) // either way the end follows
	}
	return nil
}

// cutRequest returns what is sent before the reset.
func (f *Flood) cutRequest(m member, how int) []byte {
	if how == halfBody {
		number := int(f.number.Add(1))
		body := f.body(number, f.cid(number), f.cfg.URL, f.cfg.MD5)
		request := f.out.Post(nil, wire.RegisterPath, body)
		return request[:len(request)-len(body)/2]
	}
	pull := f.out.Pull(nil, wire.Pull{TaskID: m.taskID, Cid: m.cid, Result: wire.ResultInvalid, Status: wire.StatusRunning})
	if how == halfHead {
		return pull[:len(pull)/2]
	}
	return pull
}
