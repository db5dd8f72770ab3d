package mirror

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

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func idOf(i int) string { return fmt.Sprintf("%064x", i) }

// standby is a scheduler that keeps what it is told in a book.
type standby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	cluster.Member
	book *Book
	stop func()

	mu       sync.Mutex
	streams  int
	messages int
	deaf     chan struct{} // open while it takes nothing
}

func (s *standby) Mirror(stream schedulerv1.SchedulerService_MirrorServer) error {
	s.mu.Lock()
	s.streams++
	name := fmt.Sprint(s.streams)
	s.mu.Unlock()
	defer func() { s.book.Ended(name, time.Now()) }()
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.messages++
		deaf := s.deaf
		s.mu.Unlock()
		if deaf != nil {
			select {
			case <-deaf:
			case <-stream.Context().Done():
				return nil
			}
		}
		s.book.Take(name, req, time.Now())
		if err := stream.Send(&schedulerv1.MirrorResponse{Seq: req.GetSeq()}); err != nil {
			return err
		}
	}
}

func newStandby(t testing.TB, id, address string) *standby {
	t.Helper()
	book, err := NewBook(prometheus.NewRegistry())
	require.NoError(t, err)
	s := &standby{Member: cluster.Member{ID: id}, book: book}
	s.Endpoint, s.stop = rpctest.ServeAt(t, address, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, s) })
	return s
}

// ownAddress is one of 127/8 that is a test's own, with any port: nobody takes
// the port while the test does not listen there. At 127.0.0.1 others might, and
// outgoing connections come from there.
func ownAddress(test int) string {
	return fmt.Sprintf("127.%d.%d.%d:0", test, 100+os.Getpid()/200%100, 1+os.Getpid()%200)
}

// memberList is the schedulers, as a test has them.
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

// memory is a task whose peers are numbered.
type memory struct {
	mu    sync.Mutex
	peers int
	told  int
	blank bool // nothing is known of the source
}

func (m *memory) Changes(_ context.Context, anew bool) (swarm.Update, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if anew {
		m.told = 0
	}
	out := swarm.Update{Full: anew}
	if !m.blank {
		out.Facts = &swarm.Facts{Length: 7, PieceSize: 4 << 20}
	}
	for ; m.told < m.peers; m.told++ {
		out.Peers = append(out.Peers, swarm.PeerUpdate{
			PeerInfo: swarm.PeerInfo{ID: fmt.Sprint("peer", m.told), IP: "127.0.0.1", Path: strings.Repeat("p", 200)}, Have: []uint64{1},
		})
	}
	return out, nil
}

func (m *memory) grow(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers += n
}

func newSender(t *testing.T, list ...cluster.Member) (*Sender, *memberList) {
	t.Helper()
	m := &memberList{list: list, changed: make(chan struct{})}
	pool := rpcclient.NewPool("", nil)
	s, err := NewSender(Deps{SelfID: "me", Members: m, Dial: pool.Dial, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		work.Wait()
		require.NoError(t, pool.Close())
	})
	return s, m
}

func flush(t *testing.T, s *Sender) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.Flush(ctx))
}

// knows waits until a standby knows so many peers of a task.
func (s *standby) knows(t *testing.T, id string, peers int) Remembered {
	t.Helper()
	var r Remembered
	require.Eventually(t, func() bool {
		var ok bool
		r, ok = s.book.Recall(id)
		return ok && len(r.Memory.Peers) == peers
	}, patience, time.Millisecond, "%s does not know %s", s.ID, id)
	return r
}

func TestStandbyKnowsAllTasks(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newSender(t, cluster.Member{ID: "me"}, b.Member)
	tasks := make([]*memory, 20)
	for i := range tasks {
		tasks[i] = &memory{peers: i}
		s.Add(idOf(i), "http://source/f", &cdnv1.Source{Url: "http://user@source/f", Headers: []string{"A: b"}}, tasks[i])
	}
	r := b.knows(t, idOf(19), 19)
	require.Equal(t, "http://source/f", r.URL)
	require.Equal(t, []string{"A: b"}, r.Source.GetHeaders())
	require.EqualValues(t, 7, r.Memory.Facts.Length)
	tasks[3].grow(2000) // several parts
	s.Changed(idOf(3))
	b.knows(t, idOf(3), 2003)
	flush(t, s)
	s.Remove(idOf(3), tasks[4])
	s.Remove(idOf(4), tasks[4])
	flush(t, s)
	_, there := b.book.Recall(idOf(4))
	require.False(t, there)
	b.knows(t, idOf(3), 2003)
}

func TestStandbyThatComesBackIsToldAnew(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(1))
	s, _ := newSender(t, b.Member)
	m := &memory{peers: 5}
	s.Add(idOf(1), "u", nil, m)
	b.knows(t, idOf(1), 5)
	b.stop()
	again := newStandby(t, "b", b.Endpoint)
	again.knows(t, idOf(1), 5)
	m.grow(1)
	s.Changed(idOf(1))
	again.knows(t, idOf(1), 6)
}

func TestTasksMoveWithTheMembers(t *testing.T) {
	t.Parallel()
	b, c := newStandby(t, "b", "127.0.0.1:0"), newStandby(t, "c", "127.0.0.1:0")
	s, m := newSender(t, b.Member)
	const n = 50
	for i := range n {
		s.Add(idOf(i), "u", nil, &memory{peers: 1})
	}
	for i := range n {
		b.knows(t, idOf(i), 1)
	}
	m.set(b.Member, c.Member)
	var moved, stayed []string
	for i := range n {
		to, ok := s.Standby(idOf(i))
		require.True(t, ok)
		if to.ID != "c" {
			stayed = append(stayed, idOf(i))
			continue
		}
		moved = append(moved, idOf(i))
		c.knows(t, idOf(i), 1)
	}
	require.NotEmpty(t, moved)
	flush(t, s)
	for _, id := range moved {
		b.knows(t, id, 1)
	}
	b.book.Prune(time.Now().Add(Keep))
	for _, id := range moved {
		require.False(t, b.book.Knows(id), "it is told to another")
	}
	for _, id := range stayed {
		require.True(t, b.book.Knows(id))
	}
	draining := c.Member
	draining.Draining = true
	m.set(b.Member, draining)
	for i := range n {
		b.knows(t, idOf(i), 1)
	}
}

// One that was restarted knows nothing of a task that nothing happens to.
func TestNothingIsKnownToAStandbyThatIsAway(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(2))
	s, _ := newSender(t, b.Member)
	s.Add(idOf(1), "u", nil, &memory{peers: 5})
	b.knows(t, idOf(1), 5)
	flush(t, s)
	b.stop()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.behind() == 1
	}, patience, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Flush(ctx), context.DeadlineExceeded)
	again := newStandby(t, "b", b.Endpoint)
	flush(t, s)
	r, _ := again.book.Recall(idOf(1))
	require.Len(t, r.Memory.Peers, 5)
}

// What nobody else was told yet must not be forgotten by who knows it.
func TestStandbyKeepsATaskThatItsSuccessorIsNotToldOf(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(b cluster.Member) []cluster.Member{
		"nobody is left to be told": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b}
		},
		"it is out of reach": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b, {ID: "c", Endpoint: "127.0.0.1:1"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newStandby(t, "b", "127.0.0.1:0")
			s, m := newSender(t, b.Member)
			s.Add(idOf(1), "u", nil, &memory{peers: 1})
			b.knows(t, idOf(1), 1)
			m.set(later(b.Member)...)
			require.Eventually(t, func() bool { // b has been told
				s.mu.Lock()
				defer s.mu.Unlock()
				l := s.lanes["b"]
				return s.tasks[idOf(1)].lane != l && l.behind() == 0
			}, patience, time.Millisecond)
			b.knows(t, idOf(1), 1)
			b.book.Prune(time.Now().Add(Keep))
			require.False(t, b.book.Knows(idOf(1)), "nobody tells of it any more")
		})
	}
}

// A standby that hangs costs nobody anything but what it does not know, and
// that is told at once when it goes on.
func TestStandbyThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newSender(t, b.Member)
	m := &memory{}
	s.Add(idOf(1), "u", nil, m)
	b.knows(t, idOf(1), 0)
	b.mu.Lock()
	b.deaf = make(chan struct{})
	b.mu.Unlock()
	for range 1000 {
		m.grow(1)
		s.Changed(idOf(1))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Flush(ctx), context.DeadlineExceeded)
	b.mu.Lock()
	close(b.deaf)
	b.deaf = nil
	b.mu.Unlock()
	flush(t, s)
	b.knows(t, idOf(1), 1000)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Less(t, b.messages, 100, "changes are gathered")
}

// A task that was handed over is the standby's: what it was told of it stays.
func TestReleasedTaskIsRemembered(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newSender(t, b.Member)
	m := &memory{peers: 3}
	s.Add(idOf(1), "u", nil, m)
	b.knows(t, idOf(1), 3)
	s.Release(idOf(1), m)
	flush(t, s)
	b.knows(t, idOf(1), 3)
	b.book.Prune(time.Now().Add(Keep + time.Minute))
	_, there := b.book.Recall(idOf(1))
	require.False(t, there, "nobody tells of it any more")
}

// Who does not know yet what a task is must not replace what is known of it.
func TestTaskWithoutFactsIsNotTold(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newSender(t, b.Member)
	blank := &memory{blank: true, peers: 1}
	s.Add(idOf(1), "u", nil, blank)
	s.Add(idOf(2), "u", nil, &memory{peers: 2})
	b.knows(t, idOf(2), 2)
	flush(t, s)
	_, there := b.book.Recall(idOf(1))
	require.False(t, there)
	blank.mu.Lock()
	blank.blank = false
	blank.mu.Unlock()
	s.Changed(idOf(1))
	b.knows(t, idOf(1), 1)
}
