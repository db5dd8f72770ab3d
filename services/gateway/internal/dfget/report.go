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

// report delivers a report to the scheduler of a task, and registers the peer there
// if necessary. A report that cannot be delivered in time is queued, because
// dfget could only repeat the report or give it up.
func (s *Service) report(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	return s.sendOrQueue(ctx, reportqueue.Report{Key: key}, func(ctx context.Context, again time.Duration) error {
		return s.doRegistered(ctx, key, route.Plan{AttemptTimeout: reportAttempt, RetryFor: again}, withClient(call), neverAdopt)
	})
}

// reportFinal delivers the report of a client that has finished or leaves. It is
// delivered even if the client has left meanwhile. A scheduler that does not have
// the peer does not need it.
func (s *Service) reportFinal(ctx context.Context, task request.TaskID, peer request.PeerID, call clientCall) error {
	key := keyOf(task, peer)
	s.registrations.End(key)
	return s.sendOrQueue(ctx, reportqueue.Report{Key: key, KeepAfterDeparture: true}, func(ctx context.Context, again time.Duration) error {
		err := s.router.Do(ctx, key.Task, route.Plan{AttemptTimeout: reportAttempt, RetryFor: again}, withClient(call))
		if errmap.PeerUnknown(err) {
			return nil // the scheduler has no peer to update
		}
		return err
	})
}

// sendOrQueue delivers a report with send, within reportBudget, and queues it if
// that fails with an error that is worth a retry. It does so even if the client
// has disconnected. send gets the time for which it retries.
func (s *Service) sendOrQueue(ctx context.Context, r reportqueue.Report, send func(ctx context.Context, again time.Duration) error) error {
	limit := min(reportBudget, s.cfg.CallBudget)
	budget, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := send(budget, limit)
	if err == nil {
		return nil
	}
	r.Send = func(ctx context.Context) error { return send(ctx, 0) } // the queue makes the retries
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

// neverAdopt is the adopt function of a report. Only a pull shows that a peer is
// still downloading.
func neverAdopt() bool { return false }

// ReportPiece reports that a piece is on a client's disk.
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

// ReportPieceError reports that a piece was missing or had a wrong MD5.
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

// ReportServiceDown reports that a client has stopped serving its file. Queued
// reports on its pieces are dropped.
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

// ReportMetrics reports how a download ended. Any scheduler accepts it. The
// scheduler of the task is called first, so that one scheduler counts all
// downloads of a task.
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
