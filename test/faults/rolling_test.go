package faults

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

// loadersAtOnce is how many files are being downloaded at a time.
const loadersAtOnce = 3

// load is downloads that begin and end all the time.
type load struct {
	// atOnce is how many files are downloaded at a time, each by a number of
	// peers. nodes are the addresses that one of all these peers is given.
	atOnce, each int
	nodes        func(i int) []string
	// size is that of a file, rate and limit bound what the source sends and a
	// peer fetches, in bytes a second.
	size, rate, limit int64
	// within is the time in which the peers of a file begin, one after the other.
	within  time.Duration
	observe func(peer.Event)

	mu       sync.Mutex // guards what follows
	files    []file
	failures []error
	peers    int
	pieces   int
	// migrations is how often peers went to another address.
	migrations  int
	longestPull time.Duration
}

// All supernodes are told to stop and started again, one after the other,
// while files are downloaded all the time. No download may fail, and what is
// cached afterwards is not fetched again.
func TestAllRestartedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	s := bundles(t, 3, nil)
	attempts(t, "bundles", func(t *attempt) { allRestarted(t, s) })
}

func allRestarted(t *attempt, s *site) {
	t.Helper()
	s.comeBack(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*trialLimit)
	defer cancel()
	gateways := s.All(cluster.Gateway)
	l := &load{atOnce: loadersAtOnce, each: len(gateways), size: sizeOfSmall, rate: rateOfSmall, nodes: func(i int) []string {
		k := i % len(gateways)
		var all []string
		for _, n := range slices.Concat(gateways[k:], gateways[:k]) {
			all = append(all, n.REST)
		}
		return all
	}}
	end := s.keepLoading(ctx, t, l)
	began := time.Now()
	for _, n := range s.Nodes {
		l.awaitMore(t, loadersAtOnce)
		require.NoError(t, n.Stop(), n.Name)
		n.Launch(s.t)
		n.Await(t)
		s.awaitMembers(t)
	}
	l.awaitMore(t, loadersAtOnce)
	end()
	took := time.Since(began)
	t.within(errors.Join(l.failures...))
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

// Every process is told to stop and started again, one after the other, while
// many peers, each behind a balancer of its own, download. Nobody may notice.
func TestEveryProcessRestartedUnderACrowd(t *testing.T) {
	t.Parallel()
	s := services(t, 3)
	attempts(t, "services", func(t *attempt) { everyRestarted(t, s) })
}

func everyRestarted(t *attempt, s *site) {
	t.Helper()
	s.comeBack(t)
	const files = 4
	ctx, cancel := context.WithTimeout(t.Context(), 2*trialLimit)
	defer cancel()
	saw := newWire()
	l := &load{
		observe: saw.observe, atOnce: files, each: everywhere / files, nodes: s.balance(t, everywhere).listed(1),
		size: sizeForEach, rate: rateOfEach * 3 / 2, limit: rateOfEach, within: beginWithin,
	}
	end := s.keepLoading(ctx, t, l)
	began := time.Now()
	for i, n := range s.Nodes {
		// From the beginning of the downloads to their end.
		part := everywhere * l.size * int64(i) / int64(len(s.Nodes))
		await(t, trialLimit, "downloads are to go on", func() error { return unless(saw.came() >= part, "they do not") })
		require.NoError(t, n.Stop(), n.Name)
		n.Launch(s.t)
		n.Await(t)
		s.awaitMembers(t)
		t.Logf("%s was restarted %s after the beginning", n.Name, time.Since(began).Round(time.Millisecond))
	}
	end()
	var sent, size int64
	for _, f := range l.files {
		sent, size = sent+s.sent(f), size+f.Size
	}
	t.Logf("longest pull %s, answers %v, calls without one %v, at %v",
		l.longestPull.Round(time.Millisecond), saw.codes, saw.failed, saw.unanswered(began))
	saw.requireExpected(t)
	t.within(errors.Join(errors.Join(l.failures...), stayed(l.migrations), saw.answered()))
	outcome{
		Fault: "every process restarted", Peers: l.peers, Right: l.peers - len(l.failures),
		MB: float64(l.size) / 1e6, Source: ratio(sent, size), Copies: 2, FailedPieces: l.pieces, End: seconds(time.Since(began)),
	}.log(t)
}

// keepLoading downloads one new file after the other, several at a time, until
// end is called, which waits for those that have begun.
func (s *site) keepLoading(ctx context.Context, t testing.TB, l *load) (end func()) {
	t.Helper()
	stop, loaders := make(chan struct{}), sync.WaitGroup{}
	end = sync.OnceFunc(func() {
		close(stop)
		loaders.Wait()
	})
	t.Cleanup(end)
	for i := range l.atOnce {
		loaders.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
					s.loadOne(ctx, t, l, i*l.each)
				}
			}
		})
	}
	return end
}

// loadOne downloads a new file by peers that are numbered from first on. What
// they have written is removed.
func (s *site) loadOne(ctx context.Context, t testing.TB, l *load, first int) {
	f := s.newFile(l.size, l.rate)
	dir := t.TempDir()
	defer func() { _ = os.RemoveAll(dir) }()
	configs := peersIn(t, dir, l.each, f.url, nil, false)
	for i := range configs {
		configs[i].Nodes, configs[i].LocalLimit = l.nodes(first+i), l.limit
		configs[i].Observe = l.observe
	}
	peers, err := swarm.New(configs)
	if err != nil {
		t.Errorf("making peers: %v", err)
		return
	}
	delays := make([]time.Duration, l.each)
	for i := range delays {
		delays[i] = l.within * time.Duration(i) / time.Duration(l.each)
	}
	tally := peers.DownloadAfter(ctx, delays)
	peers.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = append(l.files, f)
	for _, o := range tally.Outcomes {
		l.peers++
		l.pieces += o.PieceFailures
		l.migrations += o.Migrations
		l.longestPull = max(l.longestPull, o.MaxPullTime)
		if err := wrong(f, o); err != nil {
			t.Errorf("downloading: %v", err)
		}
		if o.Err != nil {
			l.failures = append(l.failures, o.Err)
		}
	}
}

// awaitMore waits until so many more files have been downloaded.
func (l *load) awaitMore(t testing.TB, n int) {
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
