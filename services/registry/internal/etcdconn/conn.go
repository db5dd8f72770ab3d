// Package etcdconn connects the registry to etcd: by a client of an external cluster, or
// by a client of an embedded server inside the process. It tracks whether etcd is
// reachable, bounds the time of every call, and closes everything in order. Package
// etcdstore defines what is stored.
//
// The states of a connection:
//
//	failed     --Run starts with an external etcd-----------------------> connecting
//	connecting --an attempt fails---------------------------------------> failed
//	connecting --an attempt succeeds------------------------------------> connected
//	failed     --an attempt succeeds, or the embedded server is ready---> connected
//	connected  --the connection is lost---------------------------------> connecting
//	connected  --the embedded server stops------------------------------> failed
//	any state  --Run ends-----------------------------------------------> failed
//
// While the state is failed, calls fail at once. While it is connecting, they wait.
package etcdconn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// maxCallTime bounds one call, even if the deadline of the caller is later.
const maxCallTime = 2 * time.Second

// errUnreachable is the error of calls while etcd is not reachable.
var errUnreachable = errors.New("etcd is not reachable")

// Config selects the etcd. Either Endpoints or EmbeddedDir is set.
type Config struct {
	// Endpoints are host:port or URLs of an external cluster.
	Endpoints []string
	// EmbeddedDir is the data directory of an embedded server.
	EmbeddedDir string
	// DialTimeout bounds one attempt to connect.
	DialTimeout time.Duration
}

// Conn is a connection to etcd. It is safe for concurrent use. Run may be called once.
// Calls before and after Run fail as if etcd was not reachable.
type Conn struct {
	cfg Config
	log *zap.Logger

	mu     sync.Mutex // guards the fields below
	client *clientv3.Client
	// connected is not nil while etcd is reachable. It ends when the connection is lost,
	// and with it the calls that are under way.
	connected  context.Context
	disconnect context.CancelCauseFunc
	changed    chan struct{} // closed and replaced whenever the state changes
	failed     bool          // the last attempt to connect failed
	calls      sync.WaitGroup
}

// New returns a connection that does nothing until Run.
func New(cfg Config, log *zap.Logger) *Conn {
	return &Conn{cfg: cfg, log: log, failed: true, changed: make(chan struct{})}
}

// Run connects to etcd, calls use, and closes everything when use returns: it refuses
// further calls, waits for those that are under way, and closes the client and the
// server.
func (c *Conn) Run(ctx context.Context, use func(context.Context) error) error {
	if c.cfg.EmbeddedDir != "" {
		return c.runEmbedded(ctx, use)
	}
	return c.runExternal(ctx, use)
}

// Do calls f with a client. The context of f ends after 2 s or after three quarters of the
// time that the caller has left, whichever is earlier: the rest is for the answer to the
// caller. what describes the call in errors.
//
// If the caller has canceled ctx, Do returns context.Canceled. Every other error has the
// reason STORE_UNAVAILABLE, so f must handle the errors that have another meaning.
func (c *Conn) Do(ctx context.Context, what string, f func(context.Context, *clientv3.Client) error) error {
	bound := maxCallTime
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)*3/4)
	}
	return c.do(ctx, bound, what, f)
}

// DoLong is Do with another bound, for background work that reads much.
func (c *Conn) DoLong(ctx context.Context, bound time.Duration, what string, f func(context.Context, *clientv3.Client) error) error {
	return c.do(ctx, bound, what, f)
}

func (c *Conn) do(parent context.Context, bound time.Duration, what string, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(parent, bound)
	defer cancel()
	client, connected, err := c.acquire(ctx)
	if err == nil {
		defer c.calls.Done()
		call, end := context.WithCancelCause(ctx)
		stop := context.AfterFunc(connected, func() { end(errUnreachable) })
		err = f(call, client)
		stop()
		end(nil)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(parent.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", what, parent.Err())
	}
	return Unavailable("%s: %v", what, err)
}

// Unavailable returns an error with the reason STORE_UNAVAILABLE.
func Unavailable(format string, args ...any) error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, format, args...)
}

// WaitConnected waits until etcd is reachable. It returns a client, and a context that
// ends when the connection is lost.
func (c *Conn) WaitConnected(ctx context.Context) (*clientv3.Client, context.Context, error) {
	for {
		c.mu.Lock()
		client, connected, changed := c.client, c.connected, c.changed
		c.mu.Unlock()
		if connected != nil {
			return client, connected, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("waiting for etcd: %w", ctx.Err())
		}
	}
}

// acquire registers a call, for which the caller must call c.calls.Done. It waits while
// the state is connecting, and fails at once if it is failed.
func (c *Conn) acquire(ctx context.Context) (*clientv3.Client, context.Context, error) {
	for {
		c.mu.Lock()
		if c.connected != nil {
			c.calls.Add(1)
			client, connected := c.client, c.connected
			c.mu.Unlock()
			return client, connected, nil
		}
		failed, changed := c.failed, c.changed
		c.mu.Unlock()
		if failed {
			return nil, nil, errUnreachable
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, errUnreachable
		}
	}
}

// setConnected changes the state to connected.
func (c *Conn) setConnected(client *clientv3.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client, c.failed = client, false
	// The context belongs to the connection and not to a request. setDisconnected ends it.
	c.connected, c.disconnect = context.WithCancelCause(context.Background())
	c.notify()
}

// setDisconnected changes the state to failed or to connecting, and ends the calls that
// are under way.
func (c *Conn) setDisconnected(failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disconnect != nil {
		c.disconnect(errUnreachable)
	}
	c.connected, c.disconnect, c.failed = nil, nil, failed
	c.notify()
}

// notify wakes the goroutines that wait for a change of the state. The caller holds mu.
func (c *Conn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// drain refuses further calls and waits for those that are under way.
func (c *Conn) drain() {
	c.setDisconnected(true)
	c.calls.Wait()
}
