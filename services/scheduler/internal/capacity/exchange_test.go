package capacity

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
)

const patience = 20 * time.Second

// cdn is an instance that grants the same window to every stream.
type cdn struct {
	cdnv1.UnimplementedCdnServiceServer
	endpoint string
	stop     func()
	window   int32
	opened   atomic.Int64
	requests chan *cdnv1.ShareCapacityRequest
	hangs    chan struct{} // if not nil, a stream grants once and then is silent until it is closed
}

type serverStream = grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse]

func (c *cdn) ShareCapacity(s serverStream) error {
	c.opened.Add(1)
	if c.window == 0 {
		return status.Error(codes.Unimplemented, "an older version")
	}
	for {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		select {
		case c.requests <- req:
		case <-s.Context().Done():
			return s.Context().Err()
		}
		if err := s.Send(&cdnv1.ShareCapacityResponse{Window: c.window, DeliveryRate: 1000}); err != nil {
			return err
		}
		if c.hangs != nil {
			select {
			case <-c.hangs:
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	}
}

func serve(t *testing.T, address string, window int32) *cdn {
	t.Helper()
	c := &cdn{window: window, requests: make(chan *cdnv1.ShareCapacityRequest)}
	c.endpoint, c.stop = rpctest.ServeAt(t, address, func(g *grpc.Server) { cdnv1.RegisterCdnServiceServer(g, c) })
	return c
}

// ownAddress is one of 127/8 whose ports no other test takes while the instance
// is down.
func ownAddress(test int) string {
	return fmt.Sprintf("127.%d.%d.%d:0", test, 100+os.Getpid()/200%100, 1+os.Getpid()%200)
}

// next returns the next request that fits.
func (c *cdn) next(t *testing.T, fits func(*cdnv1.ShareCapacityRequest) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case req := <-c.requests:
			if fits(req) {
				return
			}
		case <-late:
			require.FailNow(t, "no such request")
		}
	}
}

func anything(*cdnv1.ShareCapacityRequest) bool { return true }

// members is a list of members that tests change.
type members struct {
	mu      sync.Mutex // guards the rest
	list    []cluster.Member
	changed chan struct{}
}

func (m *members) Members(cluster.Role) []cluster.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list
}

func (m *members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *members) set(list ...cluster.Member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = list
	close(m.changed)
	m.changed = make(chan struct{})
}

func quick() Timing {
	t := DefaultTiming()
	t.Interval, t.Repeat, t.FirstPause, t.LastPause = 5*time.Millisecond, 20*time.Millisecond, 10*time.Millisecond, 50*time.Millisecond
	return t
}

// exchange runs an exchange until the test ends.
func exchange(t *testing.T, timing Timing) (*Shares, *members) {
	t.Helper()
	pool := rpcclient.NewPool("", nil)
	s, m := NewShares(), &members{changed: make(chan struct{})}
	e := NewExchange(timing, ExchangeDeps{SelfID: "me", Shares: s, Members: m, Dial: pool.Dial, Log: zap.NewNop()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		require.NoError(t, pool.Close())
	})
	return s, m
}

func at(c *cdn) cluster.Member { return cluster.Member{ID: "cdn", Endpoint: c.endpoint} }

func awaitWindow(t *testing.T, s *Shares, want int) {
	t.Helper()
	task := s.NewTask()
	defer task.Close()
	require.Eventually(t, func() bool { return task.Window("cdn") == want }, patience, time.Millisecond)
}

func TestDemandIsReportedAndTheWindowGranted(t *testing.T) {
	t.Parallel()
	c := serve(t, "127.0.0.1:0", 20)
	s, m := exchange(t, quick())
	m.set(at(c))
	c.next(t, func(req *cdnv1.ShareCapacityRequest) bool {
		return req.GetSchedulerId() == "me" && req.GetInFlight() == 0 && !req.GetLimited()
	})
	awaitWindowWhile(t, s, c, 20)
	task := s.NewTask()
	require.EqualValues(t, 1000, task.Rate("cdn"))
	require.Equal(t, 20, takeAll(task, "cdn", start))
	c.next(t, func(req *cdnv1.ShareCapacityRequest) bool { return req.GetInFlight() == 20 && req.GetLimited() })
	c.next(t, func(req *cdnv1.ShareCapacityRequest) bool { return req.GetInFlight() == 20 && !req.GetLimited() })
	task.Close()
	c.next(t, func(req *cdnv1.ShareCapacityRequest) bool { return req.GetInFlight() == 0 })
	require.EqualValues(t, 1, c.opened.Load())
}

// awaitWindowWhile is awaitWindow of an instance whose requests are received.
func awaitWindowWhile(t *testing.T, s *Shares, c *cdn, want int) {
	t.Helper()
	task := s.NewTask()
	defer task.Close()
	c.next(t, func(*cdnv1.ShareCapacityRequest) bool { return task.Window("cdn") == want })
}

func TestWindowIsTheDefaultWhileTheInstanceIsDown(t *testing.T) {
	t.Parallel()
	c := serve(t, ownAddress(31), 20)
	s, m := exchange(t, quick())
	m.set(at(c))
	awaitWindowWhile(t, s, c, 20)
	c.stop()
	awaitWindow(t, s, Default)
	again := serve(t, c.endpoint, 30)
	awaitWindowWhile(t, s, again, 30)
}

func TestWindowIsTheDefaultWhileTheInstanceIsSilent(t *testing.T) {
	t.Parallel()
	c := serve(t, "127.0.0.1:0", 20)
	c.hangs = make(chan struct{})
	timing := quick()
	timing.Silence = 300 * time.Millisecond
	s, m := exchange(t, timing)
	m.set(at(c))
	c.next(t, anything)
	awaitWindow(t, s, 20)
	awaitWindow(t, s, Default)
	c.next(t, anything) // another stream
	awaitWindow(t, s, 20)
}

func TestInstanceOfAnOlderVersionHasTheDefaultWindowAndIsAskedRarely(t *testing.T) {
	t.Parallel()
	c := serve(t, "127.0.0.1:0", 0)
	s, m := exchange(t, quick())
	newer := serve(t, "127.0.0.1:0", 20)
	m.set(at(c))
	require.Eventually(t, func() bool { return c.opened.Load() == 1 }, patience, time.Millisecond)
	m.set(at(newer)) // it is replaced in the middle of the long pause
	awaitWindowWhile(t, s, newer, 20)
	require.EqualValues(t, 1, c.opened.Load())
}

func TestInstanceOfAnOlderVersionIsAskedAgain(t *testing.T) {
	t.Parallel()
	c := serve(t, "127.0.0.1:0", 0)
	timing := quick()
	timing.Unsupported = 10 * time.Millisecond
	s, m := exchange(t, timing)
	m.set(at(c))
	require.Eventually(t, func() bool { return c.opened.Load() > 2 }, patience, time.Millisecond)
	awaitWindow(t, s, Default)
}

func TestStreamEndsWithTheMember(t *testing.T) {
	t.Parallel()
	c := serve(t, "127.0.0.1:0", 20)
	s, m := exchange(t, quick())
	m.set(at(c), cluster.Member{ID: "unreachable", Endpoint: "127.0.0.1:1"})
	awaitWindowWhile(t, s, c, 20)
	m.set()
	awaitWindow(t, s, Default)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.instances)
}
