// Package lifecycle starts the parts of a process in order and stops them in reverse
// order. It stops a part only after the one before has ended, or has used up its time.
// All parts share the grace period of the process.
//
// The states of a group:
//
//	new --Add--> new --Run--> running --ctx ends or a part returns--> stopping --> ended
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// minGrace is the time that a part gets even if the parts before it have used up the
// grace period. The last parts to stop are those that the others depend on: they need
// time to end properly.
const minGrace = 2 * time.Second

// Group holds the parts of a process in the order of their start.
type Group struct {
	log   *zap.Logger
	grace time.Duration
	parts []*part
}

type part struct {
	name   string
	run    func(context.Context) error
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

// NewGroup returns an empty group. grace is the time that all parts together have to
// stop. Each part has 2 s even if the others have used up grace.
func NewGroup(log *zap.Logger, grace time.Duration) *Group {
	return &Group{log: log, grace: grace}
}

// Add appends a part. run must block until its context ends. It must return after
// everything that it started has ended.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.parts = append(g.parts, &part{name: name, run: run, ended: make(chan struct{})})
}

// Run starts the parts in the order in which they were added, without waiting for one
// to be ready. When ctx ends or a part returns, it stops them in reverse order. It
// returns the errors of all parts, joined in the order of the stop. The first one says
// which part returned while ctx had not ended, if it returned without an error of its
// own.
func (g *Group) Run(ctx context.Context) error {
	first := make(chan *part, len(g.parts))
	for _, p := range g.parts {
		// A part gets the values of ctx but not its end, because stop ends the parts
		// in order.
		partCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p.cancel = cancel
		go func() {
			p.err = p.run(partCtx)
			close(p.ended)
			first <- p
		}()
	}
	var early error
	select {
	case <-ctx.Done():
	case p := <-first:
		// Run has not canceled the part, so context.Canceled is unexpected, too.
		if p.err == nil || errors.Is(p.err, context.Canceled) {
			early = fmt.Errorf("%s ended by itself", p.name)
		}
	}
	errs := []error{early}
	deadline := time.Now().Add(g.grace)
	for i := len(g.parts) - 1; i >= 0; i-- {
		errs = append(errs, g.stop(g.parts[i], max(time.Until(deadline), minGrace)))
	}
	return errors.Join(errs...)
}

// stop cancels a part and waits for its end for the time grace. A part that does not end
// in time keeps running.
func (g *Group) stop(p *part, grace time.Duration) error {
	p.cancel()
	expired := time.NewTimer(grace)
	defer expired.Stop()
	select {
	case <-p.ended:
	case <-expired.C:
		return fmt.Errorf("%s did not end within %s", p.name, grace.Round(time.Millisecond))
	}
	if p.err != nil && !errors.Is(p.err, context.Canceled) {
		return fmt.Errorf("%s: %w", p.name, p.err)
	}
	g.log.Debug("stopped", zap.String("part", p.name))
	return nil
}

// SignalContext returns a context that ends when the process receives SIGTERM or
// SIGINT. After that, the signals have their default effect: a second one terminates
// the process.
func SignalContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
