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
	// keepAliveTime must be above 5 s: etcd closes connections with more frequent pings.
	keepAliveTime    = 6 * time.Second
	keepAliveTimeout = 3 * time.Second
	// maxBackoff bounds the pause between two attempts to connect, so that a registry
	// reconnects about 1 s after its etcd is available again.
	maxBackoff = time.Second
)

func (c *Conn) runExternal(ctx context.Context, use func(context.Context) error) error {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            c.cfg.Endpoints,
		DialTimeout:          c.cfg.DialTimeout,
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		Logger:               filterLog(c.log.Named("etcd-client"), zap.ErrorLevel),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: c.cfg.DialTimeout,
		})},
	})
	if err != nil {
		return fmt.Errorf("creating a client of etcd %q: %w", c.cfg.Endpoints, err)
	}
	c.setDisconnected(false) // calls wait for the first attempt
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
		err = fmt.Errorf("closing the client of etcd: %w", closeErr)
	}
	return err
}

// watchState updates the state with that of the gRPC connection until ctx ends.
// clientv3 restores its own watches and retries calls without reporting it. But an
// etcd that was unreachable may have lost its data, so every loss of the connection
// must be detected.
func (c *Conn) watchState(ctx context.Context, client *clientv3.Client) {
	conn := client.ActiveConnection()
	connected := false
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			if !connected {
				c.setConnected(client)
			}
		case connectivity.Idle, connectivity.Connecting:
			conn.Connect()
			// After a failure the state stays failed until an attempt succeeds, so that
			// calls do not wait for every attempt.
			if connected {
				c.setDisconnected(false)
			}
		case connectivity.TransientFailure, connectivity.Shutdown:
			c.setDisconnected(true)
		}
		connected = state == connectivity.Ready
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
		// The state may have left Ready and returned to it before it was read again.
		if connected && conn.GetState() == connectivity.Ready {
			c.setDisconnected(false)
			connected = false
		}
	}
}
