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

const (
	// maxConcurrentOps is the maximum number of operations that run on the disk at
	// the same time. It also bounds the goroutines that a disk which does not
	// respond can block.
	maxConcurrentOps = 256
	// timeoutIntervals is the number of timer intervals that a timeout consists of.
	timeoutIntervals = 10
)

// guard bounds the time that callers wait for the disk. The kernel cannot cancel a
// system call. So each operation runs on a goroutine of its own, and its caller
// gets an error if the operation does not end in time.
//
// The states of an operation, with op as the function that accesses the disk:
//
//	called --stuck > 0--------------------> rejected: timeout error, op does not start
//	   |
//	   | stuck = 0
//	   v
//	waiting for a slot --timeout----------> given up: timeout error, op does not start
//	   |
//	   | slot taken
//	   v
//	running --op returns, slot released---> done: the caller gets the result
//	   |
//	   | timeout, stuck + 1
//	   v
//	abandoned: the caller gets a timeout error, op still runs
//	   |
//	   | op returns, slot released, stuck - 1
//	   v
//	ended late: the result is discarded, and closed if it is an io.Closer
//
// The timeout of an operation starts when it is called, so it includes the wait for
// a slot. While stuck is not 0, new operations are rejected at once; those that
// wait or run already continue until they end or time out.
type guard struct {
	timeout time.Duration
	slots   chan struct{} // one element for each operation that runs
	stuck   atomic.Int64  // operations that are abandoned and have not returned
}

func newGuard(timeout time.Duration) *guard {
	return &guard{timeout: timeout, slots: make(chan struct{}, maxConcurrentOps)}
}

// do runs an operation without a result.
func (g *guard) do(action string, op func() error) error {
	_, err := run(g, action, func() (struct{}, error) { return struct{}{}, op() })
	return err
}

// run runs an operation and returns its result. action names the operation in error
// texts. If the operation does not end in time, run returns an error for which
// TimedOut is true, and op may still use the memory and the files that it refers to.
func run[T any](g *guard, action string, op func() (T, error)) (T, error) {
	var none T
	if g.stuck.Load() > 0 {
		return none, timeoutError(action)
	}
	t := newTimeout(g.timeout)
	defer t.timer.Stop()
	for acquired := false; !acquired; {
		select {
		case g.slots <- struct{}{}:
			acquired = true
		case <-t.timer.C:
			if t.expired() {
				return none, timeoutError(action)
			}
		}
	}
	type outcome struct {
		value T
		err   error
	}
	var settled atomic.Bool // set by the goroutine or by the caller, whichever ends first
	done := make(chan outcome, 1)
	go func() {
		value, err := op()
		<-g.slots
		done <- outcome{value, err}
		if settled.Swap(true) {
			g.stuck.Add(-1)
			if file, ok := any(value).(io.Closer); ok && err == nil {
				_ = file.Close() // the caller has returned without it
			}
		}
	}()
	for expired := false; !expired; {
		select {
		case o := <-done:
			return o.value, o.err
		case <-t.timer.C:
			expired = t.expired()
		}
	}
	g.stuck.Add(1)
	if settled.Swap(true) { // op has returned after the last interval
		g.stuck.Add(-1)
		o := <-done
		return o.value, o.err
	}
	return none, timeoutError(action)
}

// timeout is a time limit that consists of several timer intervals. If the process
// is stopped for a while (SIGSTOP, a paused virtual machine), the stop consumes one
// interval at most. So it is not the only cause of a timeout.
type timeout struct {
	timer    *time.Timer
	interval time.Duration
	left     int // intervals that have not ended
}

func newTimeout(limit time.Duration) *timeout {
	t := &timeout{interval: limit / timeoutIntervals, left: timeoutIntervals}
	t.timer = time.NewTimer(t.interval)
	return t
}

// expired must be called each time the timer has fired. It reports whether the last
// interval has ended; otherwise it starts the next one.
func (t *timeout) expired() bool {
	t.left--
	if t.left > 0 {
		t.timer.Reset(t.interval)
	}
	return t.left <= 0
}

// release closes a file. If the disk does not respond, release returns a timeout
// error, and a goroutine closes the file. If no slot is free for that goroutine, the
// file may stay open until the process ends.
func (g *guard) release(file io.Closer) error {
	err := g.do("closing a file", file.Close)
	if !TimedOut(err) {
		return err
	}
	select {
	case g.slots <- struct{}{}:
		go func() {
			_ = file.Close() // closing it a second time has no effect
			<-g.slots
		}()
	default:
	}
	return err
}

// errTimeout is the cause of the error of an operation that did not end in time.
var errTimeout = errors.New("the disk did not respond in time")

// TimedOut reports whether err was returned because the disk did not respond in
// time. The operation may still run: the memory that it reads into or writes from
// must not be used again.
func TimedOut(err error) bool { return errors.Is(err, errTimeout) }

func timeoutError(action string) error { return diskFailed(action, errTimeout) }

// diskFault holds an error of the disk: its kind, which goes over the wire, and its
// cause, which does not.
type diskFault struct {
	kind  *rpcerr.Error
	cause error
}

// Error returns the text.
func (d *diskFault) Error() string { return d.kind.Error() }

// Unwrap returns the kind and the cause.
func (d *diskFault) Unwrap() []error { return []error{d.kind, d.cause} }

func diskFailed(action string, err error) error {
	return &diskFault{rpcerr.New(codes.Unavailable, rpcerr.DiskFailed, "%s: %v", action, err), err}
}

// diskError adds a kind to the error of an operation: DISK_FULL or DISK_FAILED. An
// error that has a kind is returned unchanged. An error that says that a file is
// closed or does not exist is no fault of the disk and gets no kind.
func diskError(action string, err error) error {
	if err == nil {
		return nil
	}
	var known *diskFault
	if errors.As(err, &known) {
		return err
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return &diskFault{rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "%s: %v", action, err), err}
		}
	}
	if errors.Is(err, os.ErrClosed) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", action, err)
	}
	return diskFailed(action, err)
}
