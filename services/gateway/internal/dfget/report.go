package dfget

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportqueue"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

// report tells the scheduler of a task something, and makes the peer known there
// if need be. What cannot be told in time is told later: the client would only
// repeat it, or give it up.
func (s *Service) report(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	return s.sendOrQueue(ctx, reportqueue.Report{Key: key}, func(ctx context.Context, again time.Duration) error {
		return s.doRegistered(ctx, key, route.Plan{AttemptTimeout: reportAttempt, RetryFor: again}, withClient(call), neverAdopt)
	})
}

// reportFinal is a report that is told even if the client has left meanwhile. It is of
// no use to a scheduler that does not know the peer.
func (s *Service) reportFinal(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	s.registrations.End(key)
	return s.sendOrQueue(ctx, reportqueue.Report{Key: key, KeepAfterDeparture: true}, func(ctx context.Context, again time.Duration) error {
		err := s.router.Do(ctx, key.Task, route.Plan{AttemptTimeout: reportAttempt, RetryFor: again}, withClient(call))
		if errmap.PeerUnknown(err) {
			return nil // then there is nothing to forget
		}
		return err
	})
}

// sendOrQueue makes the attempts that there is time for: send is told for how long to
// repeat them. A client that does not wait for them has told it all the same.
func (s *Service) sendOrQueue(ctx context.Context, r reportqueue.Report, send func(ctx context.Context, again time.Duration) error) error {
	limit := min(reportBudget, s.cfg.CallBudget)
	budget, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := send(budget, limit)
	if err == nil {
		return nil
	}
	r.Send = func(ctx context.Context) error { return send(ctx, 0) } // what waits has pauses of its own
	switch action := errmap.ForReport(err); action {
	case errmap.Discard:
		return nil
	case errmap.Retry, errmap.RetryBriefly:
		if s.reports.Put(r, action) {
			return nil
		}
	case errmap.Refuse:
	}
	return statusError(err)
}

// neverAdopt: a report alone does not make a peer one that fetches.
func neverAdopt() bool { return false }

// ReportPiece says that a piece is on a client's disk.
func (s *Service) ReportPiece(ctx context.Context, in *dfgetv1.ReportPieceRequest) (*dfgetv1.ReportPieceResponse, error) {
	r, err := request.NewPieceReport(in)
	if err != nil {
		return nil, statusError(err)
	}
	err = s.report(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPiece(ctx, &schedulerv1.ReportPieceRequest{
			TaskId: string(r.Task), PeerId: string(r.Peer), DstId: string(r.From), Piece: pieceRef(&r.Piece),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportPieceResponse{Code: codePieceKnown}, nil
}

// ReportPieceError says that a piece was missing or wrong.
func (s *Service) ReportPieceError(ctx context.Context, in *dfgetv1.ReportPieceErrorRequest) (*dfgetv1.ReportPieceErrorResponse, error) {
	r, err := request.NewPieceError(in)
	if err != nil {
		return nil, statusError(err)
	}
	kind := schedulerv1.PieceErrorType_PIECE_ERROR_TYPE_MD5_NOT_MATCH
	if r.Missing {
		kind = schedulerv1.PieceErrorType_PIECE_ERROR_TYPE_FILE_NOT_EXIST
	}
	err = s.report(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPieceError(ctx, &schedulerv1.ReportPieceErrorRequest{
			TaskId: string(r.Task), PeerId: string(r.Peer), DstId: string(r.From), Type: kind, Piece: pieceRef(r.Piece),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportPieceErrorResponse{Code: codeSuccess}, nil
}

// ReportServiceDown says that a client serves no more.
func (s *Service) ReportServiceDown(ctx context.Context, in *dfgetv1.ReportServiceDownRequest) (*dfgetv1.ReportServiceDownResponse, error) {
	r, err := request.NewDeparture(in)
	if err != nil {
		return nil, statusError(err)
	}
	s.reports.DropPeer(keyOf(r.Task, r.Peer))
	err = s.reportFinal(ctx, r.Task, r.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportPeerDown(ctx, &schedulerv1.ReportPeerDownRequest{TaskId: string(r.Task), PeerId: string(r.Peer)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportServiceDownResponse{Code: codeDeparted}, nil
}

// ReportMetrics says how a download ended. Any scheduler would take it; the
// task's own is asked first, so that what belongs together is counted together.
func (s *Service) ReportMetrics(ctx context.Context, in *dfgetv1.ReportMetricsRequest) (*dfgetv1.ReportMetricsResponse, error) {
	o, err := request.NewOutcome(in)
	if err != nil {
		return nil, statusError(err)
	}
	err = s.reportFinal(ctx, o.Task, o.Peer, func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		_, err := c.ReportMetrics(ctx, &schedulerv1.ReportMetricsRequest{
			TaskId: string(o.Task), PeerId: string(o.Peer), Success: o.Success,
			Duration: durationpb.New(o.Duration), FileLength: o.FileLength, BackSourceReason: o.BackSourceReason,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dfgetv1.ReportMetricsResponse{Code: codeCounted}, nil
}
