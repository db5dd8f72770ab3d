package balancer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"
)

// dialLimit is how long a backend may take to accept.
const dialLimit = time.Second

// Balancer is a running one.
type Balancer struct {
	listener net.Listener
	backends []string
	work     sync.WaitGroup

	mu     sync.Mutex // guards what follows
	open   map[net.Conn]struct{}
	taken  map[string]int
	closed bool
}

// Start listens on an address, and passes connections on to the backends. The
// first one goes to the first of them.
func Start(address string, backends ...string) (*Balancer, error) {
	if len(backends) == 0 {
		return nil, errors.New("a balancer needs a backend")
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting a balancer: %w", err)
	}
	b := &Balancer{listener: listener, backends: backends, open: make(map[net.Conn]struct{}), taken: make(map[string]int)}
	b.work.Go(b.accept)
	return b, nil
}

// Addr is its host:port.
func (b *Balancer) Addr() string { return b.listener.Addr().String() }

// Taken is how many connections each backend has accepted.
func (b *Balancer) Taken() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.taken)
}

// Close cuts all connections, and returns when everything has ended.
func (b *Balancer) Close() error {
	b.mu.Lock()
	b.closed = true
	err := b.listener.Close()
	for conn := range b.open {
		cut(conn)
	}
	b.mu.Unlock()
	b.work.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing a balancer: %w", err)
	}
	return nil
}

func (b *Balancer) accept() {
	for turn := 0; ; turn++ {
		client, err := b.listener.Accept()
		if err != nil {
			return // it is closed
		}
		b.work.Go(func() { b.serve(client, turn%len(b.backends)) })
	}
}

// serve joins a client with a backend until both have ended.
func (b *Balancer) serve(client net.Conn, first int) {
	if !b.keep(client) {
		return
	}
	defer b.drop(client)
	backend := b.dial(first)
	if backend == nil || !b.keep(backend) {
		cut(client)
		return
	}
	defer b.drop(backend)
	var forth sync.WaitGroup
	forth.Go(func() { pass(backend, client) })
	pass(client, backend)
	forth.Wait()
}

// dial gives a connection to the first backend that accepts one, in turn; nil
// if none does.
func (b *Balancer) dial(first int) net.Conn {
	for i := range b.backends {
		address := b.backends[(first+i)%len(b.backends)]
		// Without a context: it ends soon by itself.
		conn, err := net.DialTimeout("tcp", address, dialLimit) //nolint:noctx // see above
		if err != nil {
			continue
		}
		b.mu.Lock()
		b.taken[address]++
		b.mu.Unlock()
		return conn
	}
	return nil
}

// keep notes a connection, to be cut by Close. It is false, and the connection
// cut, if that has been called.
func (b *Balancer) keep(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cut(conn)
		return false
	}
	b.open[conn] = struct{}{}
	return true
}

func (b *Balancer) drop(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, conn)
	_ = conn.Close()
}
