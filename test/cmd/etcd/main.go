// Command etcd is a real etcd member for tests and for trying a cluster on one
// machine, where no etcd is installed.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	dir := flag.String("dir", "", "the data directory")
	client := flag.String("client", "127.0.0.1:2379", "host:port for clients")
	peer := flag.String("peer", "127.0.0.1:2380", "host:port for other members")
	members := flag.String("members", "", "host:port for other members of all members, separated by commas; only this one when empty")
	flag.Parse()
	if err := serve(ctx, *dir, *client, *peer, *members); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dir, client, peer, members string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.Name = dir, "warn", peer
	clients, peers := []url.URL{{Scheme: "http", Host: client}}, []url.URL{{Scheme: "http", Host: peer}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = clients, clients
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peers, peers
	if members == "" {
		members = peer
	}
	var all []string
	for member := range strings.SplitSeq(members, ",") {
		all = append(all, member+"=http://"+member)
	}
	cfg.InitialCluster = strings.Join(all, ",")
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
