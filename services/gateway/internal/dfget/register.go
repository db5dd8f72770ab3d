package dfget

import (
	"context"

	"google.golang.org/protobuf/proto"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

// cdnSource tells dfget to download the pieces from the cluster and not from the
// source.
const cdnSource = "supernode"

// RegisterPeer registers a client for a download.
func (s *Service) RegisterPeer(ctx context.Context, in *dfgetv1.RegisterPeerRequest) (*dfgetv1.RegisterPeerResponse, error) {
	r, err := request.NewRegistration(in)
	if err != nil {
		return nil, statusError(err)
	}
	req := registerRequest(r)
	budget, cancel := context.WithTimeout(ctx, s.cfg.CallBudget)
	defer cancel()
	out, err := s.register(budget, req, route.Plan{AttemptTimeout: s.registerAttempt(), RetryFor: s.cfg.CallBudget})
	if err == nil {
		s.registrations.Put(req, factsOf(out))
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if err != nil {
		if a := errmap.ToAnswer(errmap.Register, err); a.HasDfgetCode() {
			return &dfgetv1.RegisterPeerResponse{Code: a.Code, Msg: proto.String(a.Text)}, nil
		}
		return nil, statusError(err)
	}
	return &dfgetv1.RegisterPeerResponse{
		Code: codeSuccess,
		Msg:  proto.String("success"),
		Data: &dfgetv1.RegisterData{
			TaskId: string(r.Task), FileLength: out.GetLength(), PieceSize: out.GetPieceSize(), CdnSource: cdnSource,
		},
	}, nil
}

// registerRequest returns the request to a scheduler.
func registerRequest(r request.Registration) *schedulerv1.RegisterPeerRequest {
	return &schedulerv1.RegisterPeerRequest{
		TaskId:  string(r.Task),
		TaskUrl: r.TaskURL,
		Source: &cdnv1.Source{
			Url: r.Source.URL, Headers: r.Source.Headers, Md5: r.Source.MD5,
			Insecure: r.Source.Insecure, RootCas: r.Source.RootCAs,
		},
		Peer: &schedulerv1.Peer{
			Id: string(r.Peer.ID), Ip: r.Peer.IP, Port: r.Peer.Port, Path: r.Peer.Path,
			HostName: r.Peer.HostName, Version: r.Peer.Version,
			CallSystem: r.Peer.CallSystem, Dfdaemon: r.Peer.Dfdaemon,
		},
	}
}
