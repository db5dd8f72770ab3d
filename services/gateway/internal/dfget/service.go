// Package dfget is the DfgetService: what each call of a client asks of the
// schedulers, and how their answers look to it. HTTP and JSON are not known
// here: the same service stands on the gRPC port.
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

// The codes of dfget for what went well.
const (
	codeCounted    = 1
	codeSuccess    = 200
	codeFinished   = 600
	codeContinue   = 601
	codeWait       = errmap.Wait
	codePieceKnown = 611
	codeDeparted   = 612
)

// How long one scheduler may take. What it answers out of its memory takes no
// time; a report may have to wait until it has made sure that another one is
// dead, and has taken the task over.
const (
	reportAttempt  = 2500 * time.Millisecond
	listingAttempt = 2 * time.Second
)

// reportBudget is how long a report is tried before it is taken to be told later:
// dfget waits for the answer before it ends.
const reportBudget = reportAttempt

// pullRetry is how long a pull is asked again that the cluster may still be able to
// answer; behind it the client is told to wait.
const pullRetry = 2 * time.Second

// Config is what the service has to know.
type Config struct {
	// Version is told to resident clients.
	Version string
	// MaxHold is how long a pull may be held, in whole and with everything.
	MaxHold time.Duration
	// CallBudget is how long any call may take; it is greater than MaxHold.
	CallBudget time.Duration
}

// Service implements dfgetv1.DfgetServiceServer.
type Service struct {
	dfgetv1.UnimplementedDfgetServiceServer
	cfg           Config
	router        *route.Router
	registrations *registrations.Store
	reports       *reportqueue.Queue
	// holdCtx ends when no pull may be held any more.
	holdCtx  context.Context
	endHolds context.CancelFunc
}

// New makes the service. Whoever made the queue of reports runs it.
func New(cfg Config, router *route.Router, store *registrations.Store, queue *reportqueue.Queue) *Service {
	s := &Service{cfg: cfg, router: router, registrations: store, reports: queue}
	s.holdCtx, s.endHolds = context.WithCancel(context.Background())
	return s
}

// Release answers the pulls that are being held, and lets none be held from
// now on.
func (s *Service) Release() { s.endHolds() }

// Heartbeat never asks for anything: a registration is one download's.
func (s *Service) Heartbeat(_ context.Context, in *dfgetv1.HeartbeatRequest) (*dfgetv1.HeartbeatResponse, error) {
	if err := request.CheckHeartbeat(in); err != nil {
		return nil, statusError(err)
	}
	return &dfgetv1.HeartbeatResponse{
		Code: codeSuccess,
		Data: &dfgetv1.HeartbeatData{Version: s.cfg.Version},
	}, nil
}

type clientCall = func(context.Context, schedulerv1.SchedulerServiceClient) error

func withClient(call clientCall) route.Call {
	return func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return call(ctx, schedulerv1.NewSchedulerServiceClient(conn))
	}
}

// statusError makes an error one that survives the wire.
func statusError(err error) error { return rpcerr.Status(err).Err() }

// contextError is the error of a call whose caller does not wait for the answer.
func contextError(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// pieceRef gives nil for nil.
func pieceRef(p *request.Piece) *schedulerv1.PieceRef {
	if p == nil {
		return nil
	}
	return &schedulerv1.PieceRef{Num: p.Num, Size: p.Size}
}
