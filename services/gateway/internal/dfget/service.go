// Package dfget implements the DfgetService: it translates each call of a client
// into calls to schedulers, and their answers into dfget's answers. It does not
// depend on HTTP or JSON, because the gRPC port serves the same service.
//
// Invariants:
//
//   - Every call ends within Config.CallBudget.
//   - A pull that the cluster may still be able to answer gets a wait instead of
//     an error, because dfget leaves its supernode after an error.
//   - A valid report is acknowledged even if no scheduler accepts it in time. It
//     is queued then.
package dfget

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportqueue"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

// The dfget codes for success.
const (
	codeCounted    = 1
	codeSuccess    = 200
	codeFinished   = 600
	codeContinue   = 601
	codeWait       = errmap.Wait
	codePieceKnown = 611
	codeDeparted   = 612
)

// The timeouts of one attempt at one scheduler. A scheduler answers from memory at
// once, but a report may have to wait while it verifies that another scheduler is
// dead and takes the task over.
const (
	reportAttempt  = 2500 * time.Millisecond
	listingAttempt = 2 * time.Second
)

// reportBudget is how long attempts to deliver a report are made before it is
// queued. It is short, because dfget does not exit before it has the answer.
const reportBudget = reportAttempt

// pullRetry is how long a pull with a retryable error is repeated. After that the
// client gets a wait.
const pullRetry = 2 * time.Second

// Config holds the settings of the service.
type Config struct {
	// Version is the version that heartbeats are answered with.
	Version string
	// MaxHold is how long a pull may be held, all attempts taken together.
	MaxHold time.Duration
	// CallBudget is how long a call may take. It is greater than MaxHold.
	CallBudget time.Duration
}

// Service implements dfgetv1.DfgetServiceServer.
type Service struct {
	dfgetv1.UnimplementedDfgetServiceServer
	cfg           Config
	router        *route.Router
	registrations *registrations.Store
	reports       *reportqueue.Queue
	// holdCtx ends with Release. No pull is held afterwards.
	holdCtx  context.Context
	endHolds context.CancelFunc
}

// New creates the service. The caller runs the queue.
func New(cfg Config, router *route.Router, store *registrations.Store, queue *reportqueue.Queue) *Service {
	s := &Service{cfg: cfg, router: router, registrations: store, reports: queue}
	s.holdCtx, s.endHolds = context.WithCancel(context.Background())
	return s
}

// Release answers the held pulls with a wait and prevents further pulls from being
// held.
func (s *Service) Release() { s.endHolds() }

// Heartbeat answers a resident client. It never asks the client to register its
// files again, because a registration applies to one download only.
func (s *Service) Heartbeat(_ context.Context, in *dfgetv1.HeartbeatRequest) (*dfgetv1.HeartbeatResponse, error) {
	if err := request.CheckHeartbeat(in); err != nil {
		return nil, statusError(err)
	}
	return &dfgetv1.HeartbeatResponse{
		Code: codeSuccess,
		Data: &dfgetv1.HeartbeatData{Version: s.cfg.Version},
	}, nil
}

// clientCall is a route.Call with a client instead of a connection.
type clientCall = func(context.Context, schedulerv1.SchedulerServiceClient) error

// withClient returns call as a route.Call.
func withClient(call clientCall) route.Call {
	return func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return call(ctx, schedulerv1.NewSchedulerServiceClient(conn))
	}
}

// statusError converts an error to a gRPC status error, which keeps its code and
// reason on the wire.
func statusError(err error) error { return rpcerr.Status(err).Err() }

// contextError returns the error for a call whose client has disconnected.
func contextError(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// pieceRef converts a piece. It returns nil for nil.
func pieceRef(p *request.Piece) *schedulerv1.PieceRef {
	if p == nil {
		return nil
	}
	return &schedulerv1.PieceRef{Num: p.Num, Size: p.Size}
}
