// Package etcdconn is the way to etcd: a client of an external cluster, or an
// embedded server with a client inside the process. It knows when etcd can be
// reached, bounds every call, and closes in order. What is stored belongs
// to package etcdstore.
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

// maxCall bounds one call, whatever time the caller has left.
const maxCall = 2 * time.Second

// errDown is why calls are ended and refused while there is no way to etcd.
var errDown = errors.New("etcd is not reachable")

// Config says which etcd. Exactly one of the two is set.
type Config struct {
	// Endpoints are host:port or URLs of an external cluster.
	Endpoints []string
	// EmbeddedDir is the data directory of an embedded server.
	EmbeddedDir string
	// DialTimeout bounds one attempt to connect.
	DialTimeout time.Duration
}

// Conn is the way to etcd. Use New, and Run once; calls before and after Run
// are refused like those to an etcd that is down.
type Conn struct {
	cfg Config
	log *zap.Logger

	mu     sync.Mutex // guards everything below
	client *clientv3.Client
	// up lives while etcd can be reached; calls under way end with it.
	up     context.Context
	down   context.CancelCauseFunc
	turned chan struct{} // closed and replaced whenever one of the above changes
	dead   bool          // the last attempt to connect failed
	calls  sync.WaitGroup
}

// New makes a Conn that does nothing yet.
func New(cfg Config, log *zap.Logger) *Conn {
	return &Conn{cfg: cfg, log: log, dead: true, turned: make(chan struct{})}
}

// Run opens the way, keeps it until use returns, and closes it in order:
// first no more calls, then those under way, then client and server.
func (c *Conn) Run(ctx context.Context, use func(context.Context) error) error {
	if c.cfg.EmbeddedDir != "" {
		return c.runEmbedded(ctx, use)
	}
	return c.runExternal(ctx, use)
}

// Do makes one call, or a few that belong together, in at most two seconds
// and in what the caller's deadline leaves after a reserve for its answer. An
// error is the caller's own cancellation or one of reason STORE_UNAVAILABLE;
// f maps what it can repair itself.
func (c *Conn) Do(ctx context.Context, what string, f func(context.Context, *clientv3.Client) error) error {
	bound := maxCall
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)*3/4)
	}
	return c.do(ctx, bound, what, f)
}

// DoLong is Do for the calls of background work that read much.
func (c *Conn) DoLong(ctx context.Context, bound time.Duration, what string, f func(context.Context, *clientv3.Client) error) error {
	return c.do(ctx, bound, what, f)
}

func (c *Conn) do(parent context.Context, bound time.Duration, what string, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(parent, bound)
	defer cancel()
	client, up, err := c.acquire(ctx)
	if err == nil {
		defer c.calls.Done()
		call, end := context.WithCancelCause(ctx)
		stop := context.AfterFunc(up, func() { end(errDown) })
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

// Unavailable is the error of a store that cannot be used now.
func Unavailable(format string, args ...any) error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, format, args...)
}

// Up waits until etcd can be reached and gives a client and a context that
// ends when it cannot be reached any more.
func (c *Conn) Up(ctx context.Context) (*clientv3.Client, context.Context, error) {
	for {
		c.mu.Lock()
		client, up, turned := c.client, c.up, c.turned
		c.mu.Unlock()
		if up != nil {
			return client, up, nil
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for etcd: %w", ctx.Err())
		}
	}
}

// acquire admits one call. It waits for a connection that is being made, but
// not for one that just failed.
func (c *Conn) acquire(ctx context.Context) (*clientv3.Client, context.Context, error) {
	for {
		c.mu.Lock()
		if c.up != nil {
			c.calls.Add(1)
			client, up := c.client, c.up
			c.mu.Unlock()
			return client, up, nil
		}
		dead, turned := c.dead, c.turned
		c.mu.Unlock()
		if dead {
			return nil, nil, errDown
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return nil, nil, errDown
		}
	}
}

// reached admits calls.
func (c *Conn) reached(client *clientv3.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client, c.dead = client, false
	// No request's context: it lives as long as the connection, and Run ends it.
	c.up, c.down = context.WithCancelCause(context.Background())
	c.turn()
}

// lost ends the calls under way and refuses more; dead tells that waiting for
// the next attempt is in vain.
func (c *Conn) lost(dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		c.down(errDown)
	}
	c.up, c.down, c.dead = nil, nil, dead
	c.turn()
}

// turn wakes who waits. The caller holds mu.
func (c *Conn) turn() {
	close(c.turned)
	c.turned = make(chan struct{})
}

// drain refuses calls and waits for those under way.
func (c *Conn) drain() {
	c.lost(true)
	c.calls.Wait()
}
