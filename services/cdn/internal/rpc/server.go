// Package rpc is the CDN's gRPC edge: it checks what comes, turns messages
// into values and errors into statuses. It decides nothing.
package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/table"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Server answers CdnService.
type Server struct {
	cdnv1.UnimplementedCdnServiceServer
	tasks *table.Table
}

// New makes a Server.
func New(tasks *table.Table) *Server { return &Server{tasks: tasks} }

// Seed makes sure that the task is here and tells all about it.
func (s *Server) Seed(req *cdnv1.SeedRequest, stream grpc.ServerStreamingServer[cdnv1.SeedResponse]) error {
	if err := s.seed(req, stream); err != nil {
		return rpcerr.Status(err).Err()
	}
	return nil
}

func (s *Server) seed(req *cdnv1.SeedRequest, stream grpc.ServerStreamingServer[cdnv1.SeedResponse]) error {
	id, spec, err := parseSeed(req)
	if err != nil {
		return err
	}
	t, err := s.tasks.Seed(stream.Context(), id, spec, req.GetEpoch())
	if err != nil {
		return err
	}
	return listen(stream, t)
}

// listen tells everything that happens to the task, in its order, to its end.
func listen(stream grpc.ServerStreamingServer[cdnv1.SeedResponse], t *table.Task) error {
	told, seen := false, 0
	for {
		view := t.View(seen)
		if view.Facts != nil && !told {
			told = true
			if err := stream.Send(factsEvent(*view.Facts)); err != nil {
				return err
			}
		}
		for _, p := range view.Pieces {
			if err := stream.Send(pieceEvent(p)); err != nil {
				return err
			}
		}
		seen += len(view.Pieces)
		switch {
		case view.Err != nil:
			return view.Err
		case view.Result != nil:
			return stream.Send(resultEvent(*view.Result))
		}
		select {
		case <-view.Changed:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

// Stat tells what of a task is here.
func (s *Server) Stat(_ context.Context, req *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return nil, rpcerr.Status(err).Err()
	}
	t := s.tasks.Look(id)
	if t == nil {
		return nil, rpcerr.Status(notHere()).Err()
	}
	view := t.View(0)
	if view.Err != nil {
		return nil, rpcerr.Status(notHere()).Err()
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

// Delete removes a task.
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

func notHere() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "nothing of the task is here")
}

func parseID(s string) (task.ID, error) {
	id, err := task.ParseID(s)
	if err != nil {
		return "", rpcerr.Invalid("%v", err)
	}
	return id, nil
}

func parseSeed(req *cdnv1.SeedRequest) (task.ID, *source.Spec, error) {
	id, err := parseID(req.GetTaskId())
	if err != nil {
		return "", nil, err
	}
	if req.GetEpoch() < 0 {
		return "", nil, rpcerr.Invalid("the epoch is negative")
	}
	from := req.GetSource()
	spec, err := source.Parse(source.Raw{
		URL: from.GetUrl(), Headers: from.GetHeaders(), MD5: from.GetMd5(),
		Insecure: from.GetInsecure(), RootCAs: from.GetRootCas(),
	})
	if err != nil {
		return "", nil, rpcerr.Invalid("%v", err)
	}
	return id, spec, nil
}
