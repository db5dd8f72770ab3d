package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"
)

// memNetwork is a network of pipes in memory, for tests that depend on durations.
// They run in a synctest bubble, in which time passes only while every goroutine
// is blocked, so that a slow machine does not change the result. A read
// from a socket does not count as blocked there.
type memNetwork struct {
	*testing.T
	listeners map[string]*pipeListener // by address
}

// inMemNetwork runs a test in a synctest bubble. All goroutines of the test must
// end with it.
func inMemNetwork(t *testing.T, test func(*memNetwork)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(&memNetwork{T: t, listeners: make(map[string]*pipeListener)})
	})
}

// pipeListener is a listener for connections made of pipes.
type pipeListener struct {
	address  net.Addr
	accepted chan net.Conn
	closed   chan struct{}
	close    func()
}

func (p *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accepted:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipeListener) Close() error   { p.close(); return nil }
func (p *pipeListener) Addr() net.Addr { return p.address }

// listen adds a listener. It must not run concurrently with dial.
func (m *memNetwork) listen(address string) net.Listener {
	p := &pipeListener{address: &net.UnixAddr{Name: address, Net: "pipe"}, accepted: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	m.listeners[address] = p
	return p
}

func (m *memNetwork) dial(ctx context.Context, address string) (net.Conn, error) {
	p, ok := m.listeners[address]
	if !ok {
		return nil, fmt.Errorf("no listener at %s", address)
	}
	near, far := net.Pipe()
	select {
	case p.accepted <- far:
		return near, nil
	case <-p.closed:
		return nil, fmt.Errorf("listener at %s is closed", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve starts gRPC servers for the schedulers.
func (m *memNetwork) serve(schedulers ...*scheduler) {
	for _, s := range schedulers {
		s.endpoint = s.id
		server := grpc.NewServer(grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				resp, err := next(ctx, req)
				return resp, rpcerr.Status(err).Err()
			}))
		s.registerOn(server)
		l, served := m.listen(s.endpoint), make(chan struct{})
		go func() {
			defer close(served)
			_ = server.Serve(l) // returns when the server is stopped
		}()
		m.Cleanup(func() {
			server.Stop()
			<-served
		})
	}
}

// frozen returns a scheduler that behaves like a stopped process (SIGSTOP): the
// kernel accepts connections and data, and there are no answers.
func (m *memNetwork) frozen(id string) cluster.Member {
	l := m.listen(id)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // until the other side closes it
		}
	})
	m.Cleanup(func() {
		require.NoError(m, l.Close())
		work.Wait()
	})
	return cluster.Member{ID: id, Endpoint: id}
}

// start starts a gateway and the schedulers as its cluster.
func (m *memNetwork) start(cfg gateway.Config, schedulers ...*scheduler) *testGateway {
	m.Helper()
	m.serve(schedulers...)
	return m.startWith(cfg, membersOf(schedulers))
}

// startWith starts a gateway with these members as its cluster.
func (m *memNetwork) startWith(cfg gateway.Config, members gateway.Members) *testGateway {
	m.Helper()
	const address = "gateway:80"
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return m.dial(ctx, address) },
	}}
	return run(m.T, cfg, members, network{
		listener: m.listen(address), address: address, client: client, dial: dialer(m.T, grpc.WithContextDialer(m.dial)),
	})
}
