package peer_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

func rangeOf(num int) string { return piece.Range(int32(num), pieceSize) }

// length is that of a file with so many pieces, the last one short.
func length(pieces int) int64 { return int64(pieces)*int64(pieceSize-piece.WrapLength) - 100 }

func all(pieces int) []int {
	nums := make([]int, pieces)
	for i := range nums {
		nums[i] = i
	}
	return nums
}

// answers gives the n-th text to the n-th pull, and the last one from then on.
func answers(texts ...string) func(int, request) string {
	return func(n int, _ request) string { return texts[min(n, len(texts))-1] }
}

// finishing gives first once, and then waits until all pieces were reported.
func finishing(n *node, c *cdn, first string) func(int, request) string {
	return func(count int, _ request) string {
		if count == 1 {
			return first
		}
		for num := range c.pieces {
			n.awaitReport(num)
		}
		return done(c.sum())
	}
}

func TestOnlyTheLastOfSeveralRunningPiecesIsPulledFor(t *testing.T) {
	c, n := newCDN(t, length(5), pieceSize, all(5)...), newNode(t)
	n.pull = func(count int, r request) string {
		if count == 1 {
			return c.offer(all(5)...)
		}
		for num := range 5 {
			n.awaitReport(num)
		}
		return done("")
	}
	p := newPeer(t, nil, n.addr())
	go func() {
		for num := range 5 { // one after the other
			if num == 3 {
				n.await(func(r request) bool { return r.get("range") != "" })
			}
			c.open(num)
			n.awaitReport(num)
		}
	}()
	result, err := download(t, p)
	require.NoError(t, err)
	requireContent(t, c, result)
	// With 0 and 1 arrived three and more were running; 2 left two. 3 and 4
	// arrived while that pull was held, and the answer ended the download.
	pulls := n.calls("/peer/task")
	require.Len(t, pulls, 2)
	require.Equal(t, rangeOf(2), pulls[1].get("range"))
	require.Equal(t, "503", pulls[1].get("result"))
	require.Equal(t, "701", pulls[1].get("status"))
	require.Equal(t, cdnCid, pulls[1].get("dstCid"))
	require.Equal(t, []int{0, 1, 2, 3, 4}, result.Offered)
	require.EqualValues(t, length(5), result.BytesFromCDN)
	require.Zero(t, result.BytesFromPeers)
	require.Equal(t, map[int]int{601: 1, 600: 1}, result.Codes)
	require.Zero(t, result.DuplicateOffers)
}

func TestAPieceOfferedAgainIsToldAtOnceAndNeverReported(t *testing.T) {
	c, n := newCDN(t, length(1), pieceSize), newNode(t)
	n.pull = func(count int, r request) string {
		switch count {
		case 1:
			return c.offer(0)
		case 2:
			n.awaitReport(0)
			return c.offers("cdnnode:10.11.12.13~another", c.addr(), cdnPath, 0)
		}
		return done("")
	}
	result, err := download(t, newPeer(t, nil, n.addr()))
	require.NoError(t, err)
	require.Equal(t, 1, result.DuplicateOffers)
	pulls := n.calls("/peer/task")
	require.Len(t, pulls, 3)
	require.Equal(t, "701 503 "+rangeOf(0)+" cdnnode:10.11.12.13~another",
		pulls[2].get("status")+" "+pulls[2].get("result")+" "+pulls[2].get("range")+" "+pulls[2].get("dstCid"))
	require.Len(t, n.calls("/peer/piece/suc"), 1)
	require.Len(t, c.headers(), 1)
}

func TestChecksumsOfTheWholeFile(t *testing.T) {
	const wrong = "00000000000000000000000000000000"
	c := newCDN(t, length(2), pieceSize)
	run := func(t *testing.T, sum string) (peer.Result, []request, error) {
		n := newNode(t)
		n.pull = func(count int, r request) string {
			if count == 1 {
				return c.offer(0, 1)
			}
			n.awaitReport(0)
			n.awaitReport(1)
			return done(sum)
		}
		result, err := download(t, newPeer(t, nil, n.addr()))
		return result, n.calls("/task/metrics"), err
	}
	t.Run("none", func(t *testing.T) {
		result, _, err := run(t, "")
		require.NoError(t, err)
		requireContent(t, c, result)
	})
	t.Run("wrong: success is reported, and there is no file", func(t *testing.T) {
		result, metrics, err := run(t, wrong)
		require.ErrorIs(t, err, peer.ErrWrongMD5)
		require.Empty(t, result.Path)
		require.Equal(t, c.sum(), result.MD5)
		require.Len(t, metrics, 1)
		require.Contains(t, metrics[0].body, `"success":true`)
	})
}

func TestNothingNewHangsUntilTheWholeDownloadTimesOut(t *testing.T) {
	c := newCDN(t, length(1), pieceSize)
	for name, answer := range map[string]string{
		"limited":      `{"code":603}`,
		"no offers":    `{"code":601,"data":[]}`,
		"no such data": `{"code":601,"data":[{"pieceSize":"1000"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.pull = answers(answer, c.offer(0))
			// The first pull has to come within that time.
			result, err := download(t, newPeer(t, func(c *peer.Config) { c.Timeout = 5 * time.Second }, n.addr()))
			require.ErrorIs(t, err, peer.ErrTimeout)
			require.Len(t, n.calls("/peer/task"), 1)
			require.Equal(t, 1000, result.Reason)
		})
	}
}

func TestWaitsAreCountedAndEndWithAReport(t *testing.T) {
	c, n := newCDN(t, length(3), pieceSize, 0, 1, 2), newNode(t)
	n.pull = func(count int, r request) string {
		switch {
		case count == 1:
			return wait
		case count == 2:
			c.open(0)
			c.open(1)
			c.open(2)
			return c.offer(0, 1, 2)
		case len(n.calls("/peer/piece/suc")) < 3:
			return wait
		}
		return done(c.sum())
	}
	result, err := download(t, newPeer(t, nil, n.addr()))
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Equal(t, result.Codes[602], result.Waits)
	require.GreaterOrEqual(t, result.Waits, 1)
	require.GreaterOrEqual(t, result.WaitTime, 50*time.Millisecond)
	require.LessOrEqual(t, result.MaxPullTime, result.HoldTime)
}

func TestAnswersThatKill(t *testing.T) {
	for name, answer := range map[string]string{
		"finished without data": `{"code":600}`, "neither code nor msg": `{}`, "null": `null`,
		"a null offer": `{"code":601,"data":[null]}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.pull = answers(answer)
			_, err := download(t, newPeer(t, nil, n.addr(), n.addr()))
			require.ErrorIs(t, err, peer.ErrDies)
			require.Len(t, n.calls("/peer/registry"), 1)
		})
	}
}

func TestMetricsAreSentTwiceUnlessTaken(t *testing.T) {
	for text, times := range map[string]int{`{"code":1}`: 1, `{"code":200}`: 2, `null`: 2} {
		n := newNode(t)
		n.pull, n.metrics = answers(done("")), text
		_, err := download(t, newPeer(t, nil, n.addr()))
		require.NoError(t, err)
		require.Len(t, n.calls("/task/metrics"), times)
	}
}

func TestGoingToTheSource(t *testing.T) {
	source, err := origin.Start(origin.Config{TLS: true})
	require.NoError(t, err)
	defer source.Close() //nolint:errcheck // the test is over
	source.Put("/f", origin.File{Size: 70000, Seed: 9, RequireHeader: origin.Header{Name: "X-Token", Value: "a,b"}})
	result, err := download(t, newPeer(t, func(c *peer.Config) {
		c.URL, c.NoBackSource, c.RootCAs = source.URL("/f"), false, [][]byte{source.CA()}
		c.Headers = []string{"X-Token: a", "X-Token: b"}
	}, "127.0.0.1:1"))
	require.NoError(t, err)
	require.True(t, result.BackToSource)
	require.Equal(t, 1, result.Reason)
	require.Equal(t, origin.Content(70000, 9), readFile(t, result.Path))
}

func TestACrowdInOneProcess(t *testing.T) {
	const crowd = 100
	c, n := newCDN(t, length(4), pieceSize), newNode(t)
	var mu sync.Mutex
	pulls := map[string]int{}
	n.pull = func(_ int, r request) string {
		mu.Lock()
		defer mu.Unlock()
		pulls[r.get("srcCid")]++
		if pulls[r.get("srcCid")] == 1 {
			return c.offer(all(4)...)
		}
		if r.get("result") == "500" { // a probe is given up after 0.5 s, which a busy machine can take
			num, _, _ := piece.ParseRange(r.get("range"))
			return c.offer(int(num))
		}
		if len(reportsOf(n, r.get("srcCid"))) < 4 {
			return wait
		}
		return done(c.sum())
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadlocked)
	defer cancel()
	buffers := &peer.Buffers{}
	dir := t.TempDir()
	peers := make([]*peer.Peer, crowd)
	errs := make([]error, crowd)
	var running sync.WaitGroup
	for i := range peers {
		peers[i] = newPeer(t, func(c *peer.Config) { c.Buffers, c.Dir, c.IP = buffers, dir, fmt.Sprintf("127.0.1.%d", i+1) }, n.addr())
		running.Go(func() { _, errs[i] = peers[i].Download(ctx) })
	}
	running.Wait()
	cids := map[string]bool{}
	for i, p := range peers {
		require.NoError(t, errs[i], "%+v", p.Result())
		requireContent(t, c, p.Result())
		cids[p.Cid()] = true
	}
	require.Len(t, cids, crowd)
}

func reportsOf(n *node, cid string) []request {
	var mine []request
	for _, r := range n.calls("/peer/piece/suc") {
		if r.get("cid") == cid {
			mine = append(mine, r)
		}
	}
	return mine
}

func TestCloseEndsADownload(t *testing.T) {
	n := newNode(t)
	n.pull = answers(wait)
	p := newPeer(t, nil, n.addr())
	ended := make(chan error, 1)
	go func() {
		_, err := p.Download(context.Background())
		ended <- err
	}()
	n.await(func(r request) bool { return r.path == "/peer/task" })
	p.Close()
	require.Error(t, <-ended)
	_, err := p.Download(context.Background())
	require.Error(t, err, "a peer downloads once")
	_, err = os.Stat(p.Result().Path)
	require.Error(t, err)
	_, err = http.Get("http://" + p.Addr() + "/server/ping") //nolint:bodyclose // it fails
	require.Error(t, err)
}
