package rpcserver

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// pipeBuffer is the size in bytes of the pipe that streams go through.
const pipeBuffer = 256 << 10

// local carries the calls of a process to itself, and is a connection to its
// callers. A unary call runs the handler with a copy of the request, without
// encoding, frames and flow control; a stream goes through a pipe to the gRPC
// server, like one from outside.
//
//		waiting --open--> open --refuse--> refusing --end--> ended
//
//	  - waiting: a call waits for the next state or for its own end.
//	  - open: calls are answered.
//	  - refusing: a new call fails with UNAVAILABLE, those that run go on.
//	  - ended: the contexts of the calls that still run have ended. What they
//	    return is UNAVAILABLE, as from a process that stopped.
type local struct {
	unary inprocgrpc.Channel
	pipe  *bufconn.Listener
	conn  *grpc.ClientConn

	opened chan struct{}   // closed by open
	ended  context.Context // of the process's own calls; ended by end
	end    context.CancelFunc

	mu       sync.Mutex // guards refuses, and that running grows only without it
	refuses  bool
	running  sync.WaitGroup // handlers of unary calls
	openOnce sync.Once
}

// newLocal makes a local in the state waiting. interceptor is called around
// every unary handler.
func newLocal(interceptor grpc.UnaryServerInterceptor) (*local, error) {
	l := &local{pipe: bufconn.Listen(pipeBuffer), opened: make(chan struct{})}
	l.ended, l.end = context.WithCancel(context.Background())
	l.unary.WithServerUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return l.handle(ctx, req, func(ctx context.Context, req any) (any, error) { return interceptor(ctx, req, info, next) })
	})
	conn, err := grpc.NewClient("passthrough:///local",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to the rpc server of this process: %w", err)
	}
	l.conn = conn
	return l, nil
}

// Invoke makes a unary call.
func (l *local) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	select {
	case <-l.opened:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	return l.unary.Invoke(ctx, method, args, reply, opts...)
}

// NewStream opens a stream.
func (l *local) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return l.conn.NewStream(ctx, desc, method, opts...)
}

// handle runs the handler of a unary call, unless calls are refused. A caller
// that gives up leaves its handler running, so handlers are counted here and
// not where the call was made.
func (l *local) handle(ctx context.Context, req any, next grpc.UnaryHandler) (any, error) {
	if !l.enter() {
		return nil, errStopping()
	}
	defer l.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ended, cancel)()
	resp, err := next(ctx, req)
	if err != nil && l.ended.Err() != nil {
		return nil, errStopping()
	}
	return resp, err
}

func errStopping() error { return status.Error(codes.Unavailable, "this process is stopping") }

func (l *local) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuses {
		return false
	}
	l.running.Add(1)
	return true
}

// open lets calls begin.
func (l *local) open() { l.openOnce.Do(func() { close(l.opened) }) }

// refuse fails every new unary call, and returns when those that run have
// ended. end makes them end.
func (l *local) refuse() {
	l.mu.Lock()
	l.refuses = true
	l.mu.Unlock()
	l.running.Wait()
}

// close ends the connection that streams go through.
func (l *local) close() error {
	l.end()
	return l.conn.Close()
}
