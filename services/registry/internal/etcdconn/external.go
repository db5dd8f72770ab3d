package etcdconn

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
)

const (
	// etcd closes connections that are probed more often than every 5 s.
	probeAfter   = 6 * time.Second
	probeTimeout = 3 * time.Second
	// The longest pause between two attempts to connect, so that a registry is
	// back about a second after its etcd.
	longestPause = time.Second
)

func (c *Conn) runExternal(ctx context.Context, use func(context.Context) error) error {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.cfg.Endpoints,
		DialTimeout:          c.cfg.DialTimeout,
		DialKeepAliveTime:    probeAfter,
		DialKeepAliveTimeout: probeTimeout,
		Logger:               quiet(c.log.Named("etcd-client"), zap.ErrorLevel),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestPause},
			MinConnectTimeout: c.cfg.DialTimeout,
		})},
	})
	if err != nil {
		return fmt.Errorf("make client of etcd %q: %w", c.cfg.Endpoints, err)
	}
	c.lost(false) // a first attempt is worth waiting for
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.watchState(watching, client)
	}()
	err = use(ctx)
	stop()
	<-watched
	c.drain()
	if closeErr := client.Close(); err == nil && closeErr != nil && ctx.Err() == nil {
		err = fmt.Errorf("close client of etcd: %w", closeErr)
	}
	return err
}

// watchState follows the connection. clientv3 mends its own watches and retries
// without saying so; but a store that was away may have come back empty, so
// every loss has to be seen.
func (c *Conn) watchState(ctx context.Context, client *clientv3.Client) {
	conn := client.ActiveConnection()
	up := false
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			if !up {
				c.reached(client)
			}
		case connectivity.Idle, connectivity.Connecting:
			conn.Connect()
			// After a failure the verdict stands until an attempt succeeds:
			// callers must not wait for each of them.
			if up {
				c.lost(false)
			}
		case connectivity.TransientFailure, connectivity.Shutdown:
			c.lost(true)
		}
		up = state == connectivity.Ready
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
		// The state may have left Ready and come back meanwhile.
		if up && conn.GetState() == connectivity.Ready {
			c.lost(false)
			up = false
		}
	}
}
