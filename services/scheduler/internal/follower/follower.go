// Package follower follows the CDN copies of a task. It makes the owner seed the
// task, reads what the owner and every replica announce, withdraws the copies of
// instances that fail, and asks the registry for another owner if the owner is
// lost. Package resolver resolves the task to its owner, package health decides
// which instances are alive, and a Sink receives the announced pieces.
//
// One goroutine per task (taskFollower) makes all decisions. One goroutine per open
// stream (link) reads the stream and reports its end to that goroutine. The stream
// of a link passes through these states:
//
//	closed --startStream--> open --first event--> attached
//	   ^                     |                       |
//	   +------ error --------+                       +--complete, or CopyPartial--> stillValid
//	   ^                                             |
//	   +------ error, or its instance is suspect ----+
//
// In the state stillValid the stream has ended, but the copy remains attached until
// its instance becomes suspect or the record no longer names it. A closed link is
// opened again after a back-off.
//
// Invariants:
//
//   - A copy is attached to the sink at most once at a time, and it is detached
//     before its stream is opened again after an error.
//   - Events of a stream that was opened for an older epoch do not change the
//     choice of the owner.
package follower

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Source holds what a CDN needs to download a task from its source.
type Source struct {
	URL      string
	Headers  []string
	MD5      string
	Insecure bool
	RootCAs  [][]byte

	// Resumed is set if peers may have pieces of the recorded version that were
	// not reported to this scheduler.
	Resumed bool
}

// Proto converts s to its protobuf message.
func (s Source) Proto() *cdnv1.Source {
	return &cdnv1.Source{Url: s.URL, Headers: s.Headers, Md5: s.MD5, Insecure: s.Insecure, RootCas: s.RootCAs}
}

// SourceFrom converts a protobuf message to a Source.
func SourceFrom(p *cdnv1.Source) Source {
	return Source{URL: p.GetUrl(), Headers: p.GetHeaders(), MD5: p.GetMd5(), Insecure: p.GetInsecure(), RootCAs: p.GetRootCas()}
}

// Sink receives the events of all copies of a task. A copy is identified by the id of
// its instance.
type Sink interface {
	// Attach adds a copy. Detach withdraws it.
	Attach(context.Context, swarm.Copy) error
	Detach(ctx context.Context, instance string) error
	Facts(ctx context.Context, instance string, f swarm.Facts) error
	Landed(ctx context.Context, instance string, num int32, md5 string, length int32) error
	Whole(ctx context.Context, instance string, r swarm.Result) error
	// Expected returns the recorded version. held is set if peers may have pieces
	// of it.
	Expected(context.Context) (f swarm.Facts, held bool, err error)
	// Need returns whether the task still needs copies.
	Need(context.Context) (swarm.Need, error)
	// CopySuspected receives a value when a client could not download from a copy.
	CopySuspected() <-chan struct{}
}

// Follower follows the tasks of one scheduler. It is safe for concurrent use.
type Follower struct {
	Resolver *resolver.Resolver
	Health   *health.Monitor
	Dial     func(endpoint string) (grpc.ClientConnInterface, error)
	Stats    *Stats
	Log      *zap.Logger
	// Yield is called before the registry is asked for the owner of a task that has
	// none or has lost it, unless the task is complete and no peer misses pieces.
	// If no CDN answers this scheduler, Yield may hand the task over to another
	// one; it returns NOT_OWNER then. claimed is set if the task has a record, or
	// had one that the store has lost. Yield may be nil.
	Yield func(ctx context.Context, taskID string, claimed bool) error
}

// Follow delivers the events of the task's copies to sink until ctx ends or the task
// fails, and returns the cause. The cause is NOT_OWNER if another scheduler answers
// for the task.
func (f *Follower) Follow(ctx context.Context, taskID, taskURL string, source Source, sink Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &taskFollower{
		Follower: f, id: taskID, url: taskURL, source: source, sink: sink,
		log: f.Log.With(zap.String("task_id", taskID)), recordUpdates: f.Resolver.Subscribe(taskID),
		failed: make(map[string]bool), links: make(map[string]*link),
		streamEnds: make(chan streamEnd), resolutions: make(chan resolution),
	}
	defer w.close()
	defer cancel()
	return w.run(ctx)
}

// errNotNeeded is returned if all copies are lost and no peer needs one, so that the
// task need not be downloaded again.
var errNotNeeded = rpcerr.New(codes.Unavailable, "", "all CDN copies of the task are lost, and no peer misses pieces")

// isFinal reports whether another owner would return the same error.
func isFinal(err error) bool {
	known := rpcerr.From(err)
	switch known.Reason {
	case rpcerr.NotOwner, rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.TaskDeleted,
		rpcerr.InvalidArgument, rpcerr.TaskNotFound:
		return true
	}
	return known.Code == codes.InvalidArgument
}

// isVersionMismatch reports whether a copy has another version than the recorded one.
func isVersionMismatch(err error) bool {
	return errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNoPiece) || errors.Is(err, swarm.ErrResized)
}

// versionMismatchError returns the error for clients of a task whose owner has another
// version than the peers.
func versionMismatchError(err error) error {
	if errors.Is(err, swarm.ErrResized) {
		// Clients register again, receive the new piece size and start from scratch.
		return fmt.Errorf("%w: %w", rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task starts from scratch with another piece size"), err)
	}
	return fmt.Errorf("%w: %w", rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source has changed during the download"), err)
}
