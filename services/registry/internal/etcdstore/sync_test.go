package etcdstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openStore returns a store with an embedded etcd, and a client of that etcd. Sync does
// not run, so only the test and the writes of the store change the cache.
func openStore(t *testing.T) (*Store, *clientv3.Client, context.Context) {
	t.Helper()
	conn := etcdconn.New(etcdconn.Config{EmbeddedDir: t.TempDir()}, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- conn.Run(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	client, connected, err := conn.WaitConnected(t.Context())
	require.NoError(t, err)
	c := cache.New()
	m, err := metrics.New(prometheus.NewRegistry(), c.Counts)
	require.NoError(t, err)
	return New(conn, c, m, zap.NewNop(), 10*time.Second), client, connected
}

func TestListReadsAllPages(t *testing.T) {
	s, client, _ := openStore(t)
	const records = pageSize + 200
	for n := 0; n < records; n += 100 {
		var puts []clientv3.Op
		for i := n; i < n+100; i++ {
			puts = append(puts, clientv3.OpPut(taskKey(fmt.Sprintf("%064x", i)), `{"owner":"c"}`))
		}
		_, err := client.Txn(t.Context()).Then(puts...).Commit()
		require.NoError(t, err)
	}
	snapshot, err := s.list(t.Context())
	require.NoError(t, err)
	require.Len(t, snapshot.Tasks, records)
}

// Sync lists everything again then.
func TestWatchEndsIfItsRevisionIsCompacted(t *testing.T) {
	s, client, connected := openStore(t)
	var last *clientv3.PutResponse
	for range 10 {
		var err error
		last, err = client.Put(t.Context(), taskKey(fmt.Sprintf("%064x", 1)), `{"owner":"c"}`)
		require.NoError(t, err)
	}
	_, err := client.Compact(t.Context(), last.Header.Revision)
	require.NoError(t, err)
	events := client.Watch(t.Context(), root, clientv3.WithPrefix(), clientv3.WithRev(2))
	require.ErrorIs(t, s.watch(t.Context(), connected, events), rpctypes.ErrCompacted)
}

func TestInvalidKeysAreNotParsed(t *testing.T) {
	for _, key := range []string{"", memberRoot, memberRoot + "cdn/", memberRoot + "nobody/c", memberRoot + "cdn/a/b", taskRoot + "x"} {
		_, member := parseMember(key)
		_, task := parseTask(key)
		require.False(t, member || task, key)
	}
}
