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
	// doubt is how long an owner that somebody could not fetch from is
	// watched for leaving the cluster.
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
	// Woken says that somebody doubts that the owner is still there.
	Woken() <-chan struct{}
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
		rpcerr.SourceBroken, rpcerr.DiskFull, rpcerr.TaskDeleted, rpcerr.InvalidArgument:
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
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return owner.ID, nil
		}
		if err != nil {
			return owner.ID, fmt.Errorf("seeding at %s: %w", owner.ID, err)
		}
		if err := deliver(ctx, event, sink); err != nil {
			return owner.ID, err
		}
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
	if errors.Is(err, swarm.ErrConflict) || errors.Is(err, swarm.ErrNoPiece) {
		return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source is not what it was: %v", err)
	}
	return err
}

// untilLost waits until an owner that has told everything is no member any
// more, and somebody wants something from it.
func (f *Follower) untilLost(ctx context.Context, owner string, sink Sink) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-sink.Woken():
		}
		for until := time.Now().Add(doubt); time.Now().Before(until); {
			if _, there := f.FindCDN(owner); !there {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(look):
			}
		}
	}
}
