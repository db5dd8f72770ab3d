package rpc

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// eventSender is where events go.
type eventSender interface {
	facts(f task.Facts) error
	piece(p task.Piece) error
	result(r task.Result) error
}

// listener tells everything that happens to a task, in its order, to its end.
type listener struct {
	task *engine.Task
	to   eventSender
	// term is that of the owner who is listened to, nil for who listens to any copy.
	term *int
	// stay goes on behind the result.
	stay bool
}

func (l listener) listen(ctx context.Context) error {
	var facts, result bool
	sent := 0
	for {
		view := l.task.View(sent)
		if l.term != nil && view.Term != *l.term {
			return engine.ErrStale()
		}
		// To the owner's listeners provisional facts are of use, for a client waits.
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
			return rpcerr.New(codes.OutOfRange, rpcerr.CopyPartial, "nothing makes more than %d pieces here just now", sent)
		}
		select {
		case <-view.Changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
