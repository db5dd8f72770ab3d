package replication

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

func idOf(i int) string { return fmt.Sprintf("%064x", i) }

// fakeStandby is a scheduler that keeps what it receives in a StandbyStore.
type fakeStandby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	cluster.Member
	store *StandbyStore
	stop  func()

	mu       sync.Mutex
	streams  int
	messages int
	largest  int           // the encoded size of the largest message
	hung     chan struct{} // not nil while it hangs; closed when it resumes
}

func (s *fakeStandby) Mirror(stream schedulerv1.SchedulerService_MirrorServer) error {
	s.mu.Lock()
	s.streams++
	name := fmt.Sprint(s.streams)
	s.mu.Unlock()
	defer func() { s.store.EndStream(name, time.Now()) }()
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.messages++
		s.largest = max(s.largest, proto.Size(req))
		hung := s.hung
		s.mu.Unlock()
		if hung != nil {
			select {
			case <-hung:
			case <-stream.Context().Done():
				return nil
			}
		}
		s.store.Apply(name, req, time.Now())
		if err := stream.Send(&schedulerv1.MirrorResponse{Seq: req.GetSeq()}); err != nil {
			return err
		}
	}
}

func newStandby(t testing.TB, id, address string) *fakeStandby {
	t.Helper()
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	s := &fakeStandby{Member: cluster.Member{ID: id}, store: store}
	s.Endpoint, s.stop = rpctest.ServeAt(t, address, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, s) })
	return s
}

// ownAddress returns an address in 127/8 that only this test uses, with any port. No
// other process takes the port while the test does not listen on it. At 127.0.0.1
// another process might, and outgoing connections use ports there.
func ownAddress(test int) string {
	return fmt.Sprintf("127.%d.%d.%d:0", test, 100+os.Getpid()/200%100, 1+os.Getpid()%200)
}

// memberList is a list of schedulers that a test changes.
type memberList struct {
	mu      sync.Mutex
	list    []cluster.Member
	changed chan struct{}
}

func (m *memberList) Schedulers() []cluster.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

func (m *memberList) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *memberList) set(list ...cluster.Member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = list
	close(m.changed)
	m.changed = make(chan struct{})
}

// fakeTask is a task with numbered peers.
type fakeTask struct {
	mu      sync.Mutex
	peers   int
	sent    int  // the peers that Changes has returned
	noFacts bool // the facts of the source are not known yet
}

func (m *fakeTask) Changes(_ context.Context, full bool) (swarm.Update, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if full {
		m.sent = 0
	}
	out := swarm.Update{Full: full}
	if !m.noFacts {
		out.Facts = &swarm.Facts{Length: 7, PieceSize: 4 << 20}
	}
	for ; m.sent < m.peers; m.sent++ {
		out.Peers = append(out.Peers, swarm.PeerUpdate{
			PeerInfo: swarm.PeerInfo{ID: fmt.Sprint("peer", m.sent), IP: "127.0.0.1", Path: strings.Repeat("p", 200)}, Have: []uint64{1},
		})
	}
	return out, nil
}

func (m *fakeTask) grow(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers += n
}

func newTestReplicator(t *testing.T, list ...cluster.Member) (*Replicator, *memberList) {
	t.Helper()
	m := &memberList{list: list, changed: make(chan struct{})}
	pool := rpcclient.NewPool("", nil)
	r, err := NewReplicator(Deps{SelfID: "me", Members: m, Dial: pool.Dial, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		work.Wait()
		require.NoError(t, pool.Close())
	})
	return r, m
}

func flush(t *testing.T, r *Replicator) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	require.NoError(t, r.Flush(ctx))
}

// requireReplicated waits until the standby has the given number of peers of a task.
func (s *fakeStandby) requireReplicated(t *testing.T, id string, peers int) State {
	t.Helper()
	var state State
	require.Eventually(t, func() bool {
		var ok bool
		state, ok = s.store.Get(id)
		return ok && len(state.Update.Peers) == peers
	}, testTimeout, time.Millisecond, "task %s is not replicated to %s", id, s.ID)
	return state
}
