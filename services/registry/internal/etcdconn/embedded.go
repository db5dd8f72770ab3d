package etcdconn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// ErrLocked is returned, wrapped, if another process uses the data directory.
var ErrLocked = errors.New("in use by another process")

const (
	// A single server with ticks of 20 ms is ready in a few tenths of a second. The
	// minimum of a lease is 1.5 election time-outs, rounded up to whole seconds: 1 s.
	tickMs     = 20
	electionMs = 200
	// startTimeout is enough to replay a long log from a slow disk.
	startTimeout = time.Minute
	// slowRequestTime is the time from which etcd logs a request as slow. It is above the
	// time that requests take on ordinary disks.
	slowRequestTime = time.Second
	// quotaBytes is far above the size of 100,000 records with their history.
	quotaBytes = 1 << 30
	// historyRetention is how long old revisions are kept. A watch that was interrupted
	// for longer has to list everything again.
	historyRetention = "10m"
	// defragThresholdMB is the free space, in MB, from which the database is
	// defragmented at the start.
	defragThresholdMB = 64
)

func (c *Conn) runEmbedded(ctx context.Context, use func(context.Context) error) (err error) {
	unlock, err := lockDir(c.cfg.EmbeddedDir)
	if err != nil {
		return fmt.Errorf("opening the store in %s: %w", c.cfg.EmbeddedDir, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	server, err := embed.StartEtcd(embeddedConfig(c.cfg.EmbeddedDir, c.log.Named("etcd")))
	if err != nil {
		return fmt.Errorf("starting an embedded etcd in %s: %w", c.cfg.EmbeddedDir, err)
	}
	defer server.Close()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-server.Server.ReadyNotify():
	case <-server.Server.StopNotify():
		return fmt.Errorf("the embedded etcd in %s stopped during its start", c.cfg.EmbeddedDir)
	case <-timeout.C:
		return fmt.Errorf("the embedded etcd in %s was not ready after %s", c.cfg.EmbeddedDir, startTimeout)
	case <-ctx.Done():
		return nil
	}
	client := v3client.New(server.Server)
	defer func() { _ = client.Close() }() // always returns the error of its own canceled context
	c.setConnected(client)
	// Calls run inside the server, so they must end before it closes its files.
	defer c.drain()
	return c.useWhileServing(ctx, server.Server.StopNotify(), use)
}

// useWhileServing calls use. If the server stops before use returns, useWhileServing
// cancels the context of use and returns an error.
func (c *Conn) useWhileServing(ctx context.Context, stopped <-chan struct{}, use func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- use(ctx) }()
	select {
	case err := <-done:
		return err
	case <-stopped:
		c.setDisconnected(true)
		cancel()
		return errors.Join(errors.New("the embedded etcd stopped unexpectedly"), <-done)
	}
}

// embeddedConfig returns the configuration of a single server that opens no port: its
// only client is in the process, and several servers can run on one machine. The peer
// address in its membership is not used.
func embeddedConfig(dir string, log *zap.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "supernode"
	cfg.Dir = dir
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, historyRetention
	cfg.QuotaBackendBytes = quotaBytes
	cfg.BootstrapDefragThresholdMegabytes = defragThresholdMB
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slowRequestTime, slowRequestTime
	cfg.AuthToken = "" // the server has no users
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(filterLog(log, zap.WarnLevel))
	return cfg
}

// lockDir locks the directory, or returns ErrLocked if another process has locked it.
// The lock of bbolt is not enough: etcd waits for it without a limit, and opens its
// write-ahead log before.
func lockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("locking the directory: %w", err)
	}
	return lock.Close, nil
}
