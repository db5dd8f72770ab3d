// Command etcd is a real etcd member for tests and for trying a cluster on one
// machine, where no etcd is installed.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	dir := flag.String("dir", "", "the data directory")
	client := flag.String("client", "127.0.0.1:2379", "host:port for clients")
	peer := flag.String("peer", "127.0.0.1:2380", "host:port for other members")
	flag.Parse()
	if err := serve(ctx, *dir, *client, *peer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dir, client, peer string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = dir, "warn"
	clients, peers := []url.URL{{Scheme: "http", Host: client}}, []url.URL{{Scheme: "http", Host: peer}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = clients, clients
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peers, peers
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	defer server.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Err():
		return fmt.Errorf("running etcd: %w", err)
	}
}
