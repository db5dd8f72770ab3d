package faults

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/swarm"
)

// loadersAtOnce is how many files are being downloaded at a time.
const loadersAtOnce = 3

// load is downloads that begin and end all the time.
type load struct {
	mu       sync.Mutex // guards what follows
	files    []file
	failures []error
	peers    int
	pieces   int
}

// All supernodes are told to stop and started again, one after the other,
// while files are downloaded all the time. No download may fail, and what is
// cached afterwards is not fetched again.
func TestAllRestartedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	s := bundles(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*trialLimit)
	defer cancel()
	l, end := s.keepLoading(ctx, t)
	began := time.Now()
	for _, n := range s.Nodes {
		l.awaitMore(t, loadersAtOnce)
		require.NoError(t, n.Stop(), n.Name)
		n.Launch(t)
		n.Await(t)
		s.awaitMembers(t)
	}
	l.awaitMore(t, loadersAtOnce)
	end()
	took := time.Since(began)
	require.Empty(t, l.failures, "downloads failed")
	var sent, size int64
	for _, f := range l.files {
		s.settleFile(t, f)
		s.requireCached(ctx, t, f)
		sent, size = sent+s.sent(f), size+f.Size
	}
	outcome{
		Fault: "all told to stop, one after the other", Peers: l.peers, Right: l.peers - len(l.failures),
		MB: float64(sizeOfSmall) / 1e6, Source: ratio(sent, size), Bound: 1, Copies: 2, FailedPieces: l.pieces, End: seconds(took),
	}.log(t)
}

// keepLoading downloads one new file after the other, several at a time, until
// end is called, which waits for those that have begun.
func (s *site) keepLoading(ctx context.Context, t *testing.T) (l *load, end func()) {
	t.Helper()
	l = &load{}
	stop, loaders := make(chan struct{}), sync.WaitGroup{}
	end = sync.OnceFunc(func() {
		close(stop)
		loaders.Wait()
	})
	t.Cleanup(end)
	for range loadersAtOnce {
		loaders.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
					s.loadOne(ctx, t, l)
				}
			}
		})
	}
	return l, end
}

// loadOne downloads a new file by a peer of each gateway.
func (s *site) loadOne(ctx context.Context, t *testing.T, l *load) {
	f := s.newFile(sizeOfSmall, rateOfSmall)
	gateways := s.All(cluster.Gateway)
	peers, err := swarm.New(peersAt(t, len(gateways), f.url, gateways, false))
	if err != nil {
		t.Errorf("making peers: %v", err)
		return
	}
	tally := peers.Download(ctx)
	peers.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = append(l.files, f)
	for _, o := range tally.Outcomes {
		l.peers++
		l.pieces += o.PieceFailures
		switch {
		case o.Err != nil:
			l.failures = append(l.failures, o.Err)
		case o.MD5 != f.sum:
			l.failures = append(l.failures, errors.New("wrong bytes"))
		}
	}
}

// awaitMore waits until so many more files have been downloaded.
func (l *load) awaitMore(t *testing.T, n int) {
	t.Helper()
	done := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.files)
	}
	want := done() + n
	await(t, trialLimit, "downloads are to go on", func() error {
		if got := done(); got < want {
			return errors.New("they do not")
		}
		return nil
	})
}
