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

// ErrLocked is a data directory that another process uses.
var ErrLocked = errors.New("in use by another process")

const (
	// 20 ms ticks make a server alone ready in a few tenths of a second, and
	// an election time-out of 200 ms allows leases from one second on (etcd
	// wants one and a half time-outs, rounded up).
	tickMs     = 20
	electionMs = 200
	// readyWithin is long enough for a slow disk with a long log to replay.
	readyWithin = time.Minute
	// slowRequest keeps the log free of complaints about ordinary disks.
	slowRequest = time.Second
	// quota is far above 100,000 records with their history.
	quota = 1 << 30
	// history is how long old revisions are kept; only a watch that was cut
	// off for longer has to list again.
	history = "10m"
	// defragAbove is how much free space, in MB, is given back at the start.
	defragAbove = 64
)

func (c *Conn) runEmbedded(ctx context.Context, use func(context.Context) error) (err error) {
	unlock, err := lockDir(c.cfg.EmbeddedDir)
	if err != nil {
		return fmt.Errorf("open store in %s: %w", c.cfg.EmbeddedDir, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	server, err := embed.StartEtcd(embeddedConfig(c.cfg.EmbeddedDir, c.log.Named("etcd")))
	if err != nil {
		return fmt.Errorf("start embedded etcd in %s: %w", c.cfg.EmbeddedDir, err)
	}
	defer server.Close()
	timeout := time.NewTimer(readyWithin)
	defer timeout.Stop()
	select {
	case <-server.Server.ReadyNotify():
	case <-server.Server.StopNotify():
		return fmt.Errorf("embedded etcd in %s stopped while it started", c.cfg.EmbeddedDir)
	case <-timeout.C:
		return fmt.Errorf("embedded etcd in %s was not ready after %s", c.cfg.EmbeddedDir, readyWithin)
	case <-ctx.Done():
		return nil
	}
	client := v3client.New(server.Server)
	defer func() { _ = client.Close() }() // gives the error of its own cancelled context
	c.reached(client)
	// Calls run inside the server: none may be left when it closes its files.
	defer c.drain()
	return c.whileServing(ctx, server.Server.StopNotify(), use)
}

// whileServing calls use, and ends it when the server stops by itself.
func (c *Conn) whileServing(ctx context.Context, stopped <-chan struct{}, use func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- use(ctx) }()
	select {
	case err := <-done:
		return err
	case <-stopped:
		c.lost(true)
		cancel()
		return errors.Join(errors.New("embedded etcd stopped by itself"), <-done)
	}
}

// embeddedConfig is a server alone that listens nowhere: several may run on a
// machine, and its only client is in the process. The peer address is a name
// in its membership that nobody dials.
func embeddedConfig(dir string, log *zap.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "supernode"
	cfg.Dir = dir
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = tickMs, electionMs
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, history
	cfg.QuotaBackendBytes = quota
	cfg.BootstrapDefragThresholdMegabytes = defragAbove
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slowRequest, slowRequest
	cfg.AuthToken = "" // nobody can log in
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(log, zap.WarnLevel))
	return cfg
}

// lockDir keeps other processes out. bbolt has a lock of its own, but etcd
// waits for it for ever, and opens its log before.
func lockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	return lock.Close, nil
}
