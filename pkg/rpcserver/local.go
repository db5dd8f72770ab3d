package rpcserver

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
)

// pipeBuffer is the size in bytes of the pipe that streams go through.
const pipeBuffer = 256 << 10

// local carries the calls of a process to itself, and is a connection to its
// callers. A unary call runs the handler on the caller's goroutine with a copy of
// the request, without encoding, frames and flow control; a stream goes through a
// pipe to the gRPC server, like one from outside. A unary call returns when its
// handler does: handlers return soon after their context has ended.
//
//		waiting --open--> open --refuse--> refusing --end--> ended
//
//	  - waiting: a call waits for the next state or for its own end.
//	  - open: calls are answered.
//	  - refusing: a new call fails with UNAVAILABLE, those that run go on.
//	  - ended: the contexts of the calls that still run have ended. What they
//	    return is UNAVAILABLE, as from a process that stopped.
type local struct {
	methods     map[string]method // of unary calls, by full name; complete before the first call
	interceptor grpc.UnaryServerInterceptor
	pipe        *bufconn.Listener
	conn        *grpc.ClientConn

	opened chan struct{}   // closed by open
	ended  context.Context // of the process's own calls; ended by end
	end    context.CancelFunc

	mu       sync.Mutex // guards refuses, and that running grows only without it
	refuses  bool
	running  sync.WaitGroup // handlers of unary calls
	openOnce sync.Once
}

// method is a unary method of a service.
type method struct {
	service any
	handler grpc.MethodHandler
}

// newLocal makes a local in the state waiting. interceptor is called around
// every unary handler.
func newLocal(interceptor grpc.UnaryServerInterceptor) (*local, error) {
	l := &local{
		methods: make(map[string]method), interceptor: interceptor, pipe: bufconn.Listen(pipeBuffer), opened: make(chan struct{}),
	}
	l.ended, l.end = context.WithCancel(context.Background())
	conn, err := grpc.NewClient("passthrough:///local",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to the rpc server of this process: %w", err)
	}
	l.conn = conn
	return l, nil
}

// register adds the unary methods of a service.
func (l *local) register(desc *grpc.ServiceDesc, service any) {
	for _, m := range desc.Methods {
		l.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{service, m.Handler}
	}
}

// Invoke makes a unary call. Call options have no effect.
func (l *local) Invoke(ctx context.Context, name string, args, reply any, _ ...grpc.CallOption) error {
	select {
	case <-l.opened:
	default:
		select {
		case <-l.opened:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	m, found := l.methods[name]
	if !found {
		return status.Errorf(codes.Unimplemented, "this process has no method %s", name)
	}
	answer, err := l.handle(ctx, m, args)
	if err != nil {
		return statusOf(err)
	}
	return merge(reply, answer)
}

// statusOf returns the error as gRPC would carry it.
func statusOf(err error) error {
	if _, known := status.FromError(err); known {
		return err
	}
	return status.FromContextError(err).Err()
}

// merge copies a message into another one that is empty: caller and handler share
// nothing.
func merge(to, from any) error {
	target, isMessage := to.(proto.Message)
	source, sent := from.(proto.Message)
	if !isMessage || !sent {
		return status.Errorf(codes.Internal, "copying a message: %T to %T", from, to)
	}
	proto.Merge(target, source)
	return nil
}

// NewStream opens a stream.
func (l *local) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return l.conn.NewStream(ctx, desc, method, opts...)
}

// handle runs the handler of a unary call, unless calls are refused.
func (l *local) handle(ctx context.Context, m method, args any) (any, error) {
	if !l.enter() {
		return nil, errStopping()
	}
	defer l.running.Done()
	ctx, cancel := context.WithCancel(handlerContext(ctx))
	defer cancel()
	defer context.AfterFunc(l.ended, cancel)()
	resp, err := m.handler(m.service, ctx, func(req any) error { return merge(req, args) }, l.interceptor)
	if err != nil && l.ended.Err() != nil {
		return nil, errStopping()
	}
	return resp, err
}

// handlerContext returns the context of a handler: what the caller sends as metadata
// is what the handler receives.
func handlerContext(ctx context.Context) context.Context {
	sent, sends := metadata.FromOutgoingContext(ctx)
	if !sends {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, sent)
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
