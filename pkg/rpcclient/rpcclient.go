// Package rpcclient keeps the gRPC connections of a process: one for each
// endpoint, made when it is first asked for, and none at all to itself. Which
// endpoint to call is for the callers to decide.
package rpcclient

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// Pool is the connections of a process. It is safe for concurrent use.
type Pool struct {
	selfEndpoint string
	self         grpc.ClientConnInterface

	mu    sync.Mutex // guards conns and closed
	conns map[string]*grpc.ClientConn
	done  bool
}

// NewPool makes a pool in which selfEndpoint is reached through self; without
// a self every endpoint is dialled.
func NewPool(selfEndpoint string, self grpc.ClientConnInterface) *Pool {
	return &Pool{selfEndpoint: selfEndpoint, self: self, conns: make(map[string]*grpc.ClientConn)}
}

// Dial gives the connection to a host:port. It does not wait for it to be
// there: the first call does, for as long as its deadline allows.
func (p *Pool) Dial(endpoint string) (grpc.ClientConnInterface, error) {
	if p.self != nil && endpoint == p.selfEndpoint {
		return p.self, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return nil, errors.New("the connection pool is closed")
	}
	if conn := p.conns[endpoint]; conn != nil {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+endpoint, options()...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	p.conns[endpoint] = conn
	return conn, nil
}

// DialAny gives a connection to whichever of several equal endpoints answers,
// host:port each.
func (p *Pool) DialAny(endpoints []string) (grpc.ClientConnInterface, error) {
	if len(endpoints) == 1 {
		return p.Dial(endpoints[0])
	}
	if len(endpoints) == 0 {
		return nil, errors.New("no endpoint to connect to")
	}
	key := strings.Join(endpoints, ",")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return nil, errors.New("the connection pool is closed")
	}
	if conn := p.conns[key]; conn != nil {
		return conn, nil
	}
	list := manual.NewBuilderWithScheme("any")
	var state resolver.State
	for _, e := range endpoints {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: e}}})
	}
	list.InitialState(state)
	conn, err := grpc.NewClient("any:///"+key, append(options(), grpc.WithResolvers(list))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", key, err)
	}
	p.conns[key] = conn
	return conn, nil
}

// Close ends every connection that the pool made.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	var err error
	for _, conn := range p.conns {
		err = errors.Join(err, conn.Close())
	}
	clear(p.conns)
	return err
}

// options are those of every connection between our processes. A machine that
// is out of reach is found out 2 s after something was sent to it: the time-out
// of the keep-alive is that of TCP, too. A process that is stopped without
// closing its sockets is found out within about 12 s only, since gRPC probes
// every 10 s at most: calls need deadlines of their own, and whoever cannot
// wait has to ping. One that comes back is tried again within 2 s.
func options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	}
}
