// Package lifecycle starts the parts of a process in order and stops them in
// the opposite order, each given the time to end before the next is told to.
// They share the time that the process has for its stop. What the parts are is
// for their owners to know.
//
//	New --Add--> New --Run--> running --ctx ends or a part returns--> stopping --> ended
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

// leastGrace is what a part gets when those before it have used up the time of
// all: the last ones are what the others stand on, and must not be torn down.
const leastGrace = 2 * time.Second

// Group is the parts of a process in the order of their start.
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

// NewGroup makes an empty group. All of its parts together get grace to end
// once they are told to, and each of them 2 s in any case.
func NewGroup(log *zap.Logger, grace time.Duration) *Group {
	return &Group{log: log, grace: grace}
}

// Add appends a part. run must block until its context ends and then return
// when everything that it started has ended.
func (g *Group) Add(name string, run func(context.Context) error) {
	g.parts = append(g.parts, &part{name: name, run: run, ended: make(chan struct{})})
}

// Run starts the parts in the order in which they were added, and stops them
// in the opposite one when ctx ends or one of them returns. It returns the
// error of the part that ended first, joined by those that came while stopping.
func (g *Group) Run(ctx context.Context) error {
	first := make(chan *part, len(g.parts))
	for _, p := range g.parts {
		// Values pass on, the end does not: parts are stopped in order.
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
		// Nobody has cancelled it: that it says so is no excuse.
		if p.err == nil || errors.Is(p.err, context.Canceled) {
			early = fmt.Errorf("%s ended by itself", p.name)
		}
	}
	errs := []error{early}
	deadline := time.Now().Add(g.grace)
	for i := len(g.parts) - 1; i >= 0; i-- {
		errs = append(errs, g.stop(g.parts[i], max(time.Until(deadline), leastGrace)))
	}
	return errors.Join(errs...)
}

func (g *Group) stop(p *part, grace time.Duration) error {
	p.cancel()
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		return fmt.Errorf("%s did not end within %s", p.name, grace.Round(time.Millisecond))
	}
	if p.err != nil && !errors.Is(p.err, context.Canceled) {
		return fmt.Errorf("%s: %w", p.name, p.err)
	}
	g.log.Debug("stopped", zap.String("part", p.name))
	return nil
}

// SignalContext ends when the process is told to stop (SIGTERM, SIGINT). A
// second signal kills the process, as if nobody listened.
func SignalContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
