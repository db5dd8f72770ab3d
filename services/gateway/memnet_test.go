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

// memory is a network without a kernel, for what depends on how long something
// takes: in a bubble of synctest no time passes as long as anybody has something
// to do, however slow the machine is.
type memory struct {
	*testing.T
	listeners map[string]*pipes // by address
}

// inMemory runs a test in a bubble. What it starts must have ended with it.
func inMemory(t *testing.T, test func(*memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(&memory{T: t, listeners: make(map[string]*pipes)})
	})
}

// pipes is a listener.
type pipes struct {
	address  net.Addr
	accepted chan net.Conn
	closed   chan struct{}
	close    func()
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accepted:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return p.address }

// listen must be over before anybody dials.
func (m *memory) listen(address string) net.Listener {
	p := &pipes{address: &net.UnixAddr{Name: address, Net: "pipe"}, accepted: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	m.listeners[address] = p
	return p
}

func (m *memory) dial(ctx context.Context, address string) (net.Conn, error) {
	p, ok := m.listeners[address]
	if !ok {
		return nil, fmt.Errorf("nobody listens at %s", address)
	}
	near, far := net.Pipe()
	select {
	case p.accepted <- far:
		return near, nil
	case <-p.closed:
		return nil, fmt.Errorf("nobody listens at %s any more", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve starts gRPC servers for the schedulers.
func (m *memory) serve(schedulers ...*scheduler) {
	for _, s := range schedulers {
		s.endpoint = s.id
		server := grpc.NewServer(grpc.UnaryInterceptor(
			func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				resp, err := next(ctx, req)
				return resp, rpcerr.Status(err).Err()
			}))
		s.offer(server)
		l, served := m.listen(s.endpoint), make(chan struct{})
		go func() {
			defer close(served)
			_ = server.Serve(l) // ends when it is stopped
		}()
		m.Cleanup(func() {
			server.Stop()
			<-served
		})
	}
}

// frozen gives a scheduler that is what a stopped process leaves: its machine
// takes connections and what is sent on them, and nobody answers.
func (m *memory) frozen(id string) cluster.Member {
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

func (m *memory) start(cfg gateway.Config, schedulers ...*scheduler) *world {
	m.Helper()
	m.serve(schedulers...)
	return m.startWith(cfg, membersOf(schedulers))
}

func (m *memory) startWith(cfg gateway.Config, members gateway.Members) *world {
	m.Helper()
	const address = "gateway:80"
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return m.dial(ctx, address) },
	}}
	return run(m.T, cfg, members, place{
		listener: m.listen(address), address: address, client: client, dial: dialer(m.T, grpc.WithContextDialer(m.dial)),
	})
}
