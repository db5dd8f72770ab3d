package rpc

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// eventSender sends the events of a task on a stream.
type eventSender interface {
	facts(f task.Facts) error
	piece(p task.Piece) error
	result(r task.Result) error
}

// listener sends the events of a task in their order: facts, pieces, and the result or an
// error.
type listener struct {
	task *engine.Task
	to   eventSender
	// term is the term in which this instance owns the task, for a listener of the owner.
	// It is nil for a listener of any copy.
	term *int
	// stay keeps the stream open after the result, until the copy is lost.
	stay bool
}

// listen blocks until the task has ended, its result was sent, or ctx ends. It returns
// STALE_EPOCH if the term has changed. For a listener of any copy it returns COPY_PARTIAL
// if no work on the task is under way.
func (l listener) listen(ctx context.Context) error {
	var facts, result bool
	sent := 0
	for {
		view := l.task.View(sent)
		if l.term != nil && view.Term != *l.term {
			return engine.ErrStale()
		}
		// Only a listener of the owner gets provisional facts: a client waits for them.
		if view.Facts != nil && !facts && (l.term != nil || view.Settled) {
			facts = true
			if err := l.to.facts(*view.Facts); err != nil {
				return err
			}
		}
		for _, p := range view.Pieces {
			if err := l.to.piece(p); err != nil {
				return err
			}
		}
		sent += len(view.Pieces)
		switch {
		case view.Err != nil:
			return view.Err
		case view.Result != nil && !result:
			result = true
			if err := l.to.result(*view.Result); err != nil || !l.stay {
				return err
			}
		case view.Result == nil && !view.Active && l.term == nil:
			return rpcerr.New(codes.OutOfRange, rpcerr.CopyPartial, "the copy has %d pieces, and no fetch or copy is under way", sent)
		}
		select {
		case <-view.Changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
