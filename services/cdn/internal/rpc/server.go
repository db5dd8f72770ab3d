// Package rpc implements CdnService: it validates requests, converts messages to values
// and errors to statuses, and sends the events of tasks on streams. Package engine makes
// all decisions about tasks.
package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/capacity"
	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Server implements CdnService.
type Server struct {
	cdnv1.UnimplementedCdnServiceServer
	tasks    *engine.Engine
	capacity *capacity.Hub
}

// New returns a server.
func New(tasks *engine.Engine, hub *capacity.Hub) *Server {
	return &Server{tasks: tasks, capacity: hub}
}

// Seed makes this instance fetch a task as its owner and sends the events of the task.
func (s *Server) Seed(req *cdnv1.SeedRequest, stream grpc.ServerStreamingServer[cdnv1.SeedResponse]) error {
	if err := s.seed(req, stream); err != nil {
		return rpcerr.Status(err).Err()
	}
	return nil
}

func (s *Server) seed(req *cdnv1.SeedRequest, stream grpc.ServerStreamingServer[cdnv1.SeedResponse]) error {
	job, err := parseSeed(req)
	if err != nil {
		return err
	}
	t, term, err := s.tasks.Seed(stream.Context(), job)
	if err != nil {
		return err
	}
	return listener{task: t, to: seedSender{stream}, term: &term, stay: req.GetStay()}.listen(stream.Context())
}

// Follow sends the events of the local copy of a task, without starting a fetch.
func (s *Server) Follow(req *cdnv1.FollowRequest, stream grpc.ServerStreamingServer[cdnv1.FollowResponse]) error {
	if err := s.follow(req, stream); err != nil {
		return rpcerr.Status(err).Err()
	}
	return nil
}

func (s *Server) follow(req *cdnv1.FollowRequest, stream grpc.ServerStreamingServer[cdnv1.FollowResponse]) error {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return err
	}
	t, err := s.tasks.Follow(stream.Context(), id)
	if err != nil {
		return err
	}
	if t == nil {
		return errNotFound()
	}
	return listener{task: t, to: followSender{stream}, stay: req.GetStay()}.listen(stream.Context())
}

// ShareCapacity divides the transfers of this instance among schedulers.
func (s *Server) ShareCapacity(
	stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse],
) error {
	if err := s.capacity.Share(stream); err != nil {
		return rpcerr.Status(err).Err()
	}
	return nil
}

// Stat returns the state of the local copy of a task.
func (s *Server) Stat(_ context.Context, req *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return nil, rpcerr.Status(err).Err()
	}
	t := s.tasks.Get(id)
	if t == nil {
		return nil, rpcerr.Status(errNotFound()).Err()
	}
	view := t.View(0)
	if view.Err != nil {
		return nil, rpcerr.Status(errNotFound()).Err()
	}
	answer := &cdnv1.StatResponse{PieceCount: int32(len(view.Pieces))}
	if view.Facts != nil {
		answer.Facts = facts(*view.Facts)
	}
	if view.Result != nil {
		answer.Result = result(*view.Result)
	}
	return answer, nil
}

// Delete stops the work on a task and removes its copy.
func (s *Server) Delete(ctx context.Context, req *cdnv1.DeleteRequest) (*cdnv1.DeleteResponse, error) {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return nil, rpcerr.Status(err).Err()
	}
	if err := s.tasks.Delete(ctx, id); err != nil {
		return nil, rpcerr.Status(err).Err()
	}
	return &cdnv1.DeleteResponse{}, nil
}

func errNotFound() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "this CDN has no copy of the task")
}

func parseID(s string) (task.ID, error) {
	id, err := task.ParseID(s)
	if err != nil {
		return "", rpcerr.Invalid("%v", err)
	}
	return id, nil
}

func parseSeed(req *cdnv1.SeedRequest) (fetch.Job, error) {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return fetch.Job{}, err
	}
	if req.GetEpoch() < 0 {
		return fetch.Job{}, rpcerr.Invalid("the epoch is negative")
	}
	from := req.GetSource()
	spec, err := source.Parse(source.Raw{
		URL: from.GetUrl(), Headers: from.GetHeaders(), MD5: from.GetMd5(),
		Insecure: from.GetInsecure(), RootCAs: from.GetRootCas(),
	})
	if err != nil {
		return fetch.Job{}, rpcerr.Invalid("%v", err)
	}
	version := expected(req.GetExpected())
	if version != nil && !version.Possible() {
		return fetch.Job{}, rpcerr.Invalid("the expected version is impossible: %d bytes in pieces of %d bytes", version.Length, version.PieceSize)
	}
	return fetch.Job{ID: id, Spec: spec, Epoch: req.GetEpoch(), Expected: version, Copies: req.GetCopies()}, nil
}
