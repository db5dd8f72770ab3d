// Package rpc implements the scheduler's gRPC API. It validates requests, converts
// between protobuf messages and the types of packages taskmanager, task and
// replication, and counts the downloads that clients report. It makes no scheduling
// decisions.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
	"github.com/supernode-ha/supernode/services/scheduler/internal/taskmanager"
)

// maxHold is the maximum time that a pull is held, even if the caller asks for more.
const maxHold = 30 * time.Second

// Server implements SchedulerService.
type Server struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	tasks        *taskmanager.Manager
	standby      *replication.StandbyStore
	reachability *health.Reachability
	streams      atomic.Int64 // the number of Mirror streams so far
	downloads    *prometheus.CounterVec
	seconds      prometheus.Histogram
}

// New returns a server for the given tasks, replicated state and reachability of
// CDNs, and registers its metrics with reg.
func New(tasks *taskmanager.Manager, standby *replication.StandbyStore, reachability *health.Reachability, reg prometheus.Registerer) (*Server, error) {
	s := &Server{
		tasks: tasks, standby: standby, reachability: reachability,
		downloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_scheduler_downloads_total",
			Help: "Downloads that peers reported as ended, by result and whether they went to the source.",
		}, []string{"result", "back_to_source"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "supernode_scheduler_download_seconds", Help: "Duration of successful downloads.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 16),
		}),
	}
	count := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_tasks", Help: "Tasks in memory.",
	}, func() float64 { return float64(tasks.Count()) })
	return s, errors.Join(reg.Register(s.downloads), reg.Register(s.seconds), reg.Register(count))
}

// findTask returns the task of a call after checking the ids. See taskmanager.Get for
// adopt.
func (s *Server) findTask(ctx context.Context, taskID, peerID string, adopt bool) (*task.Task, error) {
	if err := ids.Check(taskID, peerID); err != nil {
		return nil, err
	}
	return s.tasks.Get(ctx, taskID, adopt)
}

// checkPiece returns INVALID_ARGUMENT if the number or the size of a piece is impossible.
func checkPiece(p *schedulerv1.PieceRef) error {
	if p.GetNum() < 0 || p.GetSize() <= 0 {
		return rpcerr.Invalid("piece %d of size %d: want a number from 0 and a size above 0", p.GetNum(), p.GetSize())
	}
	return nil
}

// RegisterPeer adds a peer to a task. It creates the task if there is none.
func (s *Server) RegisterPeer(ctx context.Context, req *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
	peer, src := req.GetPeer(), req.GetSource()
	if err := ids.Check(req.GetTaskId(), peer.GetId()); err != nil {
		return nil, err
	}
	if src.GetUrl() == "" {
		return nil, rpcerr.Invalid("source.url is empty")
	}
	source := follower.SourceFrom(src)
	source.Resumed = req.GetAgain()
	facts, err := s.tasks.Register(ctx, req.GetTaskId(), cmp.Or(req.GetTaskUrl(), src.GetUrl()), source, swarm.PeerInfo{
		ID: peer.GetId(), IP: peer.GetIp(), Port: peer.GetPort(), Path: peer.GetPath(),
		HostName: peer.GetHostName(), Version: peer.GetVersion(),
	})
	if err != nil {
		return nil, err
	}
	return &schedulerv1.RegisterPeerResponse{TaskId: req.GetTaskId(), Length: facts.Length, PieceSize: facts.PieceSize}, nil
}

// PullPieces applies the report on a piece and answers with the next pieces to download.
func (s *Server) PullPieces(ctx context.Context, req *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	t, err := s.findTask(ctx, req.GetTaskId(), req.GetPeerId(), req.GetAdopt())
	if err != nil {
		return nil, err
	}
	pull := task.Pull{
		PeerID: req.GetPeerId(), From: req.GetDstId(), Adopt: req.GetAdopt(),
		MaxWait: min(max(req.GetMaxWait().AsDuration(), 0), maxHold),
	}
	if p := req.GetPiece(); p != nil {
		if err := checkPiece(p); err != nil {
			return nil, err
		}
		pull.Num, pull.Size = p.GetNum(), p.GetSize()
	}
	if pull.Stage, err = stageFrom(req.GetStatus()); err != nil {
		return nil, err
	}
	if pull.Outcome, err = outcomeFrom(req.GetResult()); err != nil {
		return nil, err
	}
	answer, err := t.Pull(ctx, pull)
	if err != nil {
		return nil, err
	}
	return answerProto(answer), nil
}

// ReportPiece records that a peer has written a piece to its disk.
func (s *Server) ReportPiece(ctx context.Context, req *schedulerv1.ReportPieceRequest) (*schedulerv1.ReportPieceResponse, error) {
	t, err := s.findTask(ctx, req.GetTaskId(), req.GetPeerId(), false)
	if err != nil {
		return nil, err
	}
	if err := checkPiece(req.GetPiece()); err != nil {
		return nil, err
	}
	if err := t.Written(ctx, req.GetPeerId(), req.GetPiece().GetNum(), req.GetPiece().GetSize()); err != nil {
		return nil, err
	}
	return &schedulerv1.ReportPieceResponse{}, nil
}

// ReportPieceError records that a source did not have a piece, or sent wrong content.
func (s *Server) ReportPieceError(ctx context.Context, req *schedulerv1.ReportPieceErrorRequest) (*schedulerv1.ReportPieceErrorResponse, error) {
	t, err := s.findTask(ctx, req.GetTaskId(), req.GetPeerId(), false)
	if err != nil {
		return nil, err
	}
	whole := req.GetType() == schedulerv1.PieceErrorType_PIECE_ERROR_TYPE_FILE_NOT_EXIST
	if !whole {
		if err := checkPiece(req.GetPiece()); err != nil {
			return nil, err
		}
	}
	if err := t.Missing(ctx, req.GetPeerId(), req.GetDstId(), req.GetPiece().GetNum(), whole); err != nil {
		return nil, err
	}
	return &schedulerv1.ReportPieceErrorResponse{}, nil
}

// ReportPeerDown records that a peer no longer serves pieces.
func (s *Server) ReportPeerDown(ctx context.Context, req *schedulerv1.ReportPeerDownRequest) (*schedulerv1.ReportPeerDownResponse, error) {
	t, err := s.findTask(ctx, req.GetTaskId(), req.GetPeerId(), false)
	if err != nil {
		return nil, err
	}
	if err := t.Down(ctx, req.GetPeerId()); err != nil {
		return nil, err
	}
	return &schedulerv1.ReportPeerDownResponse{}, nil
}

// ReportMetrics counts a download that has ended.
func (s *Server) ReportMetrics(_ context.Context, req *schedulerv1.ReportMetricsRequest) (*schedulerv1.ReportMetricsResponse, error) {
	if err := ids.Check(req.GetTaskId(), req.GetPeerId()); err != nil {
		return nil, err
	}
	result, source := "failure", "no"
	if req.GetSuccess() {
		result = "success"
		s.seconds.Observe(req.GetDuration().AsDuration().Seconds())
	}
	if req.GetBackSourceReason() != 0 {
		source = "yes"
	}
	s.downloads.WithLabelValues(result, source).Inc()
	return &schedulerv1.ReportMetricsResponse{}, nil
}

// Mirror stores the state of the tasks of which this scheduler is the standby. It
// confirms each message after applying it.
func (s *Server) Mirror(stream schedulerv1.SchedulerService_MirrorServer) error {
	name := ""
	defer func() { s.standby.EndStream(name, time.Now()) }()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := replication.Check(req); err != nil {
			return err
		}
		if name == "" {
			name = fmt.Sprint(req.GetSchedulerId(), " ", s.streams.Add(1))
		}
		s.standby.Apply(name, req, time.Now())
		if err := stream.Send(&schedulerv1.MirrorResponse{Seq: req.GetSeq()}); err != nil {
			return err
		}
	}
}

// Recall returns the replicated state of a task. There are no messages if there is none.
func (s *Server) Recall(req *schedulerv1.RecallRequest, stream schedulerv1.SchedulerService_RecallServer) error {
	if err := ids.CheckTask(req.GetTaskId()); err != nil {
		return err
	}
	for _, part := range s.standby.Parts(req.GetTaskId()) {
		if err := stream.Send(&schedulerv1.RecallResponse{Memory: part}); err != nil {
			return err
		}
	}
	return nil
}

// ListReachable returns the CDNs that answer this scheduler.
func (s *Server) ListReachable(ctx context.Context, _ *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	return &schedulerv1.ListReachableResponse{CdnIds: s.reachability.Reachable(ctx)}, nil
}
