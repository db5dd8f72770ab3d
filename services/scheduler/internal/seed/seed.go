// Package seed finds the CDN instance that owns a task, follows what it tells
// of the task, and finds the next one when that instance is lost. What is done
// with the pieces is the sink's business.
package seed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
	// resolveTimeout bounds one question to the registry.
	resolveTimeout = 2 * time.Second
	// doubt is how long an owner is watched for leaving the cluster when
	// somebody may need it, and how far apart it is asked again because clients
	// cannot fetch from it.
	doubt = 10 * time.Second
	// look is how often it is looked at meanwhile.
	look = 250 * time.Millisecond
)

// Source is what a CDN needs to fetch a task.
type Source struct {
	URL      string
	Headers  []string
	MD5      string
	Insecure bool
	RootCAs  [][]byte
}

// Sink takes what the owner tells. An error of its own ends the following.
type Sink interface {
	Copy(context.Context, swarm.Copy) error
	Facts(context.Context, swarm.Facts) error
	Landed(ctx context.Context, num int32, md5 string, length int32) error
	Whole(context.Context, swarm.Result) error
	// Woken says that somebody new may need the owner.
	Woken() <-chan struct{}
	// Doubted says that a client could not fetch from the owner.
	Doubted() <-chan struct{}
}

// Follower follows tasks on behalf of one scheduler. It is safe for concurrent use.
type Follower struct {
	// SelfID is the scheduler's member id.
	SelfID   string
	Registry registryv1.RegistryServiceClient
	Dial     func(endpoint string) (grpc.ClientConnInterface, error)
	// FindCDN and FindScheduler look an instance up among the members.
	FindCDN       func(id string) (cluster.Member, bool)
	FindScheduler func(id string) (cluster.Member, bool)
	Log           *zap.Logger
}

// Follow keeps the sink told until ctx ends, or until the task can not be had:
// then it says why. NOT_OWNER means that another scheduler answers for it.
func (f *Follower) Follow(ctx context.Context, taskID, taskURL string, source Source, sink Sink) error {
	log := f.Log.With(zap.String("task_id", taskID))
	pause := firstPause
	for {
		owner, err := f.once(ctx, taskID, taskURL, source, sink)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			pause = firstPause
			f.untilLost(ctx, owner, sink)
			continue
		case final(err):
			return err
		}
		log.Warn("lost the task's CDN; trying on", zap.String("cdn_id", owner), zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// final tells the errors that another try would only give again.
func final(err error) bool {
	known := rpcerr.From(err)
	switch known.Reason {
	case rpcerr.NotOwner, rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable,
		rpcerr.SourceBroken, rpcerr.DiskFull, rpcerr.TaskDeleted, rpcerr.InvalidArgument, rpcerr.TaskNotFound:
		return true
	}
	return known.Code == codes.InvalidArgument
}

// once follows one owner to the end of its stream.
func (f *Follower) once(ctx context.Context, taskID, taskURL string, source Source, sink Sink) (string, error) {
	record, owner, err := f.resolve(ctx, taskID, taskURL)
	if err != nil {
		return "", err
	}
	// A stream that is left in the middle must not live on.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := f.Dial(owner.Endpoint)
	if err != nil {
		return owner.ID, err
	}
	stream, err := cdnv1.NewCdnServiceClient(conn).Seed(ctx, &cdnv1.SeedRequest{
		TaskId: taskID, Epoch: record.GetEpoch(),
		Source: &cdnv1.Source{
			Url: source.URL, Headers: source.Headers, Md5: source.MD5, Insecure: source.Insecure, RootCas: source.RootCAs,
		},
	})
	if err != nil {
		return owner.ID, fmt.Errorf("seeding at %s: %w", owner.ID, err)
	}
	err = sink.Copy(ctx, swarm.Copy{
		Instance: owner.ID, ID: "cdnnode:" + owner.DownloadIP + "~" + taskID,
		IP: owner.DownloadIP, Port: owner.DownloadPort, Path: "/download/" + taskID[:3] + "/" + taskID,
	})
	if err != nil {
		return owner.ID, err
	}
	for whole := false; ; {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && whole:
			return owner.ID, nil
		case errors.Is(err, io.EOF):
			return owner.ID, rpcerr.New(codes.Unavailable, "", "the CDN ended before it had told everything")
		case err != nil:
			// Clients are shown this text: what the CDN said, not how it came.
			return owner.ID, rpcerr.From(err)
		}
		if err := deliver(ctx, event, sink); err != nil {
			return owner.ID, err
		}
		whole = whole || event.GetResult() != nil
	}
}

func (f *Follower) resolve(ctx context.Context, taskID, taskURL string) (*registryv1.TaskRecord, cluster.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	resp, err := f.Registry.ResolveTask(ctx, &registryv1.ResolveTaskRequest{TaskId: taskID, Url: taskURL, SchedulerId: f.SelfID})
	if err != nil {
		return nil, cluster.Member{}, fmt.Errorf("resolving the task: %w", err)
	}
	record := resp.GetRecord()
	if record.GetScheduler() != f.SelfID {
		return nil, cluster.Member{}, NotOwner(record.GetScheduler(), resp.GetScheduler().GetEndpoint())
	}
	if resp.GetOwner() == nil {
		return nil, cluster.Member{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "the task's owner %s is not there", record.GetOwner())
	}
	return record, cluster.FromProto(resp.GetOwner()), nil
}

// NotOwner says which scheduler answers for a task instead.
func NotOwner(id, endpoint string) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "scheduler %s answers for the task", id).
		With("scheduler_id", id).With("endpoint", endpoint)
}

func deliver(ctx context.Context, event *cdnv1.SeedResponse, sink Sink) error {
	var err error
	switch e := event.GetEvent().(type) {
	case *cdnv1.SeedResponse_Facts:
		err = sink.Facts(ctx, swarm.Facts{Length: e.Facts.GetLength(), PieceSize: e.Facts.GetPieceSize()})
	case *cdnv1.SeedResponse_Piece:
		err = sink.Landed(ctx, e.Piece.GetNum(), e.Piece.GetMd5(), e.Piece.GetLength())
	case *cdnv1.SeedResponse_Result:
		err = sink.Whole(ctx, swarm.Result{
			MD5: e.Result.GetMd5(), Length: e.Result.GetLength(), PieceCount: e.Result.GetPieceCount(),
		})
	}
	switch {
	case errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNoPiece):
		return fmt.Errorf("%w: %w", rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source is not what it was"), err)
	case errors.Is(err, swarm.ErrResized):
		// Clients that register again see the new size and begin anew.
		return fmt.Errorf("%w: %w", rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task begins anew"), err)
	}
	return err
}

// untilLost waits until an owner that has told everything has to be asked
// again: because it is no member any more and somebody wants something from
// it, or because clients cannot fetch from it, so that it may have come back
// without what it had. The latter at most once in doubt: it may be the client
// that cannot reach it.
func (f *Follower) untilLost(ctx context.Context, owner string, sink Sink) {
	rest := time.NewTimer(doubt)
	defer rest.Stop()
	var looks <-chan time.Time
	var until time.Time
	for doubted, rested := false, false; !doubted || !rested; {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
			rested = true
		case <-sink.Doubted():
			doubted, until = true, time.Now().Add(doubt)
		case <-sink.Woken():
			until = time.Now().Add(doubt)
		case <-looks:
		}
		looks = nil
		if time.Now().Before(until) {
			if _, there := f.FindCDN(owner); !there {
				return
			}
			looks = time.After(look)
		}
	}
}
