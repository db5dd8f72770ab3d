// Package rpc converts between the scheduler's gRPC API and the types of packages
// taskmanager and task. It makes no decisions.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
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

const (
	// maxHold is the longest that a pull is held, whatever the caller asks for.
	maxHold = 30 * time.Second
	// maxListing is the most entries of one listing.
	maxListing = 10000
)

// Server answers SchedulerService.
type Server struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	tasks        *taskmanager.Manager
	standby      *replication.StandbyStore
	reachability *health.Reachability
	streams      atomic.Int64 // that others have opened
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
			Name: "supernode_scheduler_download_seconds", Help: "How long downloads took that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 16),
		}),
	}
	count := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_tasks", Help: "Tasks in memory.",
	}, func() float64 { return float64(tasks.Count()) })
	return s, errors.Join(reg.Register(s.downloads), reg.Register(s.seconds), reg.Register(count))
}

// findTask gives the task of a call that must be of a known task.
func (s *Server) findTask(ctx context.Context, taskID, peerID string, adopt bool) (*task.Task, error) {
	if err := ids.Check(taskID, peerID); err != nil {
		return nil, err
	}
	return s.tasks.Get(ctx, taskID, adopt)
}

func checkPiece(p *schedulerv1.PieceRef) error {
	if p.GetNum() < 0 || p.GetSize() <= 0 {
		return rpcerr.Invalid("piece %d of size %d: want a number from 0 and a size above 0", p.GetNum(), p.GetSize())
	}
	return nil
}

// RegisterPeer takes a peer into a task.
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

// PullPieces reports on a piece and asks for the next ones.
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

// ReportPiece says that a piece is on a peer's disk.
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

// ReportPieceError says that a piece was missing or wrong.
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

// ReportPeerDown says that a peer serves no more.
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

// ReportMetrics counts how a download ended.
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

// Mirror takes what another scheduler knows of its tasks.
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

// Recall gives what another scheduler told of a task.
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

// ListReachable tells which CDNs answer.
func (s *Server) ListReachable(ctx context.Context, _ *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	return &schedulerv1.ListReachableResponse{CdnIds: s.reachability.Reachable(ctx)}, nil
}

// ListPeers lists the peers that serve.
func (s *Server) ListPeers(ctx context.Context, req *schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error) {
	if req.GetLimit() < 1 || req.GetLimit() > maxListing {
		return nil, rpcerr.Invalid("limit %d: want 1 to %d", req.GetLimit(), maxListing)
	}
	var entries []*schedulerv1.PeerEntry
	for _, t := range s.tasks.All() {
		if len(req.GetUrls()) > 0 && !slices.Contains(req.GetUrls(), t.URL) {
			continue
		}
		list, facts, err := t.Holdings(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue // the task was put away meanwhile
		}
		for _, h := range list {
			entries = append(entries, entryProto(t, h, facts))
		}
	}
	slices.SortFunc(entries, func(a, b *schedulerv1.PeerEntry) int {
		return cmp.Or(cmp.Compare(a.GetPeer().GetId(), b.GetPeer().GetId()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return &schedulerv1.ListPeersResponse{Entries: entries[:min(len(entries), int(req.GetLimit()))]}, nil
}
