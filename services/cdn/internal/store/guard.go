package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// mostUnderWay is how many operations may be under way on the disk, and so how
// many can hang when it does.
const mostUnderWay = 256

// guard keeps a disk that hangs from hanging everybody who touches it. The
// kernel cannot be asked to give a system call up, so one that takes too long
// is left to itself, on a goroutine of its own: whoever asked for it goes on
// with an error. While there is such a one all others fail at once.
type guard struct {
	patience time.Duration
	slots    chan struct{} // one for each operation under way
	stuck    atomic.Int64  // operations that were given up and have not ended
}

func newGuard(patience time.Duration) *guard {
	return &guard{patience: patience, slots: make(chan struct{}, mostUnderWay)}
}

// do runs an operation without a result.
func (g *guard) do(doing string, op func() error) error {
	_, err := run(g, doing, func() (struct{}, error) { return struct{}{}, op() })
	return err
}

// run runs an operation for as long as patience lasts. What op has at hand may
// still be in use when run gives up, which the error tells: see Hangs.
func run[T any](g *guard, doing string, op func() (T, error)) (T, error) {
	var none T
	if g.stuck.Load() > 0 {
		return none, hanging(doing)
	}
	p := newPatience(g.patience)
	defer p.timer.Stop()
	for taken := false; !taken; {
		select {
		case g.slots <- struct{}{}:
			taken = true
		case <-p.timer.C:
			if p.lost() {
				return none, hanging(doing)
			}
		}
	}
	type outcome struct {
		value T
		err   error
	}
	var over atomic.Bool // set by whichever comes first, the end or the giving up
	done := make(chan outcome, 1)
	go func() {
		value, err := op()
		<-g.slots
		done <- outcome{value, err}
		if over.Swap(true) {
			g.stuck.Add(-1)
			if file, ok := any(value).(io.Closer); ok && err == nil {
				_ = file.Close() // nobody is there to take it
			}
		}
	}()
	for lost := false; !lost; {
		select {
		case o := <-done:
			return o.value, o.err
		case <-p.timer.C:
			lost = p.lost()
		}
	}
	g.stuck.Add(1)
	if over.Swap(true) { // it ended just now
		g.stuck.Add(-1)
		o := <-done
		return o.value, o.err
	}
	return none, hanging(doing)
}

// patience is a time that is lost in small parts, one after the other: when
// the process itself was stopped for a while, that has cost one of them.
type patience struct {
	timer *time.Timer
	part  time.Duration
	left  int
}

func newPatience(whole time.Duration) *patience {
	const parts = 10
	p := &patience{part: whole / parts, left: parts}
	p.timer = time.NewTimer(p.part)
	return p
}

// lost takes note that the timer has fired, and tells whether it was the last part.
func (p *patience) lost() bool {
	p.left--
	if p.left > 0 {
		p.timer.Reset(p.part)
	}
	return p.left <= 0
}

// release closes a file. On a disk that hangs it does so behind everybody's
// back: not even closing may wait there.
func (g *guard) release(file io.Closer) error {
	err := g.do("closing a file", file.Close)
	if !Hangs(err) {
		return err
	}
	select {
	case g.slots <- struct{}{}:
		go func() {
			_ = file.Close() // if it was closed above, that is no harm
			<-g.slots
		}()
	default: // closed with the process
	}
	return err
}

// errHangs marks an operation that has not come back.
var errHangs = errors.New("the disk does not answer")

// Hangs tells an error of a disk that hangs. What was to be read or written may
// still be: the memory must not be used again.
func Hangs(err error) bool { return errors.Is(err, errHangs) }

func hanging(doing string) error { return failed(doing, errHangs) }

// diskFault is a fault of the disk that can be told by its cause, too.
type diskFault struct {
	kind  *rpcerr.Error
	cause error
}

// Error is the text.
func (d *diskFault) Error() string { return d.kind.Error() }

// Unwrap gives the kind and the cause.
func (d *diskFault) Unwrap() []error { return []error{d.kind, d.cause} }

func failed(doing string, err error) error {
	return &diskFault{rpcerr.New(codes.Unavailable, rpcerr.DiskFailed, "%s: %v", doing, err), err}
}

// diskError gives what went wrong on the disk its kind.
func diskError(doing string, err error) error {
	if err == nil {
		return nil
	}
	var known *diskFault
	if errors.As(err, &known) {
		return err
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return &diskFault{rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "%s: %v", doing, err), err}
		}
	}
	if errors.Is(err, os.ErrClosed) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return failed(doing, err)
}
