// Package follower follows the CDN copies of a task: it has the owner seed the
// task, listens to the owner and to every replica, withdraws a copy that is
// lost, and has the registry name another owner when it is the owner's. Who
// has a task is the claim package's business, who answers the health
// package's, and what is done with the pieces the sink's.
//
// One goroutine a task decides (following); one for each copy listens (link)
// and tells the first how it ended.
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
	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Source is what a CDN needs to fetch a task.
type Source struct {
	URL      string
	Headers  []string
	MD5      string
	Insecure bool
	RootCAs  [][]byte

	// Resumed says that peers may have pieces of the recorded version, though
	// nobody here knows of any.
	Resumed bool
}

// Proto is what a CDN is told.
func (s Source) Proto() *cdnv1.Source {
	return &cdnv1.Source{Url: s.URL, Headers: s.Headers, Md5: s.MD5, Insecure: s.Insecure, RootCas: s.RootCAs}
}

// SourceFrom is what was told.
func SourceFrom(p *cdnv1.Source) Source {
	return Source{URL: p.GetUrl(), Headers: p.GetHeaders(), MD5: p.GetMd5(), Insecure: p.GetInsecure(), RootCAs: p.GetRootCas()}
}

// Sink takes what the copies tell, each under its instance's id.
type Sink interface {
	// Attach says that a copy serves from now on, Detach that it does no more.
	Attach(context.Context, swarm.Copy) error
	Detach(ctx context.Context, instance string) error
	Facts(ctx context.Context, instance string, f swarm.Facts) error
	Landed(ctx context.Context, instance string, num int32, md5 string, length int32) error
	Whole(ctx context.Context, instance string, r swarm.Result) error
	// Expected gives the version that peers have pieces of, if any has.
	Expected(context.Context) (f swarm.Facts, held bool, err error)
	// Need tells what copies are needed for.
	Need(context.Context) (swarm.Need, error)
	// CopySuspected says that a client could not fetch from a copy.
	CopySuspected() <-chan struct{}
}

// Follower follows tasks on behalf of one scheduler. It is safe for concurrent use.
type Follower struct {
	Claims *claim.Resolver
	Health *health.Monitor
	Dial   func(endpoint string) (grpc.ClientConnInterface, error)
	Stats  *Stats
	Log    *zap.Logger
	// Yield is asked, before the registry is, for a task that has no owner to go on
	// with and is not done with: it is not whole, or somebody lacks some of it. If
	// no CDN answers here it may give the task to another scheduler, and then says
	// NOT_OWNER. A task that was claimed has a record, or one that the store has
	// lost. It may be nil.
	Yield func(ctx context.Context, taskID string, claimed bool) error
}

// Follow keeps the sink told until ctx ends, or until the task can not be had:
// then it says why. NOT_OWNER means that another scheduler answers for it.
func (f *Follower) Follow(ctx context.Context, taskID, taskURL string, source Source, sink Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &taskFollower{
		Follower: f, id: taskID, url: taskURL, source: source, sink: sink,
		log: f.Log.With(zap.String("task_id", taskID)), recordUpdates: f.Claims.Subscribe(taskID),
		failed: make(map[string]bool), links: make(map[string]*link),
		streamEnds: make(chan streamEnd), resolutions: make(chan resolution),
	}
	defer w.close()
	defer cancel()
	return w.run(ctx)
}

// errNotNeeded ends the following of a task that would have to be fetched again.
var errNotNeeded = rpcerr.New(codes.Unavailable, "", "all copies are lost, and nobody lacks anything of the task")

// isFinal tells the errors of an owner that another would only give again.
func isFinal(err error) bool {
	known := rpcerr.From(err)
	switch known.Reason {
	case rpcerr.NotOwner, rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.TaskDeleted,
		rpcerr.InvalidArgument, rpcerr.TaskNotFound:
		return true
	}
	return known.Code == codes.InvalidArgument
}

// isVersionMismatch tells that a copy is not of the version that is known.
func isVersionMismatch(err error) bool {
	return errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNoPiece) || errors.Is(err, swarm.ErrResized)
}

// versionMismatchError says to clients what it means for the task that its owner's
// copy contradicts what peers have.
func versionMismatchError(err error) error {
	if errors.Is(err, swarm.ErrResized) {
		// Clients that register again see the new size and begin anew.
		return fmt.Errorf("%w: %w", rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task begins anew"), err)
	}
	return fmt.Errorf("%w: %w", rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source is not what it was"), err)
}
