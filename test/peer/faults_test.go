package peer_test

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/peer"
)

func TestLostReports(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults peer.Faults
		want   int
	}{
		{"none", peer.Faults{}, 6},
		{"the second", peer.Faults{LoseReport: 2}, 5},
		{"every third", peer.Faults{LoseEvery: 3}, 4},
		{"all", peer.Faults{LoseReports: true}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCDN(t, length(6), pieceSize), newNode(t)
			told := make(chan struct{}, 6)
			n.pull = func(count int, _ request) string {
				if count == 1 {
					return c.offer(all(6)...)
				}
				for range 6 {
					<-told
				}
				return done(c.sum())
			}
			result, err := download(t, newPeer(t, func(c *peer.Config) {
				c.Faults = tt.faults
				c.Observe = func(e peer.Event) {
					if e.Kind == peer.Reported || e.Kind == peer.ReportLost {
						told <- struct{}{}
					}
				}
			}, n.addr()))
			require.NoError(t, err)
			requireContent(t, c, result)
			require.Len(t, n.calls("/peer/piece/suc"), tt.want)
		})
	}
}

func TestAFailedReportIsTriedThreeTimes(t *testing.T) {
	c, n := newCDN(t, length(1), pieceSize), newNode(t)
	broken := newNode(t)
	broken.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/peer/piece/suc" {
			n.mu.Lock()
			n.seen = append(n.seen, request{path: r.URL.Path})
			count := len(n.seen)
			n.mu.Unlock()
			if count < 3 {
				http.Error(w, "no", http.StatusInternalServerError)
				return
			}
		}
		broken.serve(w, r)
	})
	broken.pull = finishing(broken, c, c.offer(0))
	result, err := download(t, newPeer(t, nil, broken.addr()))
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Len(t, n.calls("/peer/piece/suc"), 3)
}

// seeded gives a peer that has the whole file and serves it, and the offer of
// its pieces.
func seeded(t *testing.T, c *cdn, faults peer.Faults) (*peer.Peer, func(...int) string) {
	n := newNode(t)
	n.pull = finishing(n, c, c.offer(all(len(c.pieces))...))
	p := newPeer(t, func(cfg *peer.Config) { cfg.Faults = faults }, n.addr())
	result, err := download(t, p)
	require.NoError(t, err)
	requireContent(t, c, result)
	return p, func(nums ...int) string { return c.offers(p.Cid(), p.Addr(), pathOf(n), nums...) }
}

// pathOf is what the peer registered.
func pathOf(n *node) string {
	_, after, _ := strings.Cut(n.calls("/peer/registry")[0].body, `"path":"`)
	path, _, _ := strings.Cut(after, `"`)
	return path
}

func TestPeersServeEachOther(t *testing.T) {
	for name, size := range map[string]int64{"several": length(4), "one": 10, "full": 2 * 995, "empty": 0} {
		t.Run(name, func(t *testing.T) {
			c := newCDN(t, size, pieceSize)
			from, offer := seeded(t, c, peer.Faults{})
			n := newNode(t)
			n.pull = finishing(n, c, offer(all(len(c.pieces))...))
			result, err := download(t, newPeer(t, nil, n.addr()))
			require.NoError(t, err)
			requireContent(t, c, result)
			require.EqualValues(t, size, result.BytesFromPeers)
			require.Zero(t, result.BytesFromCDN)
			pieces, bytes := from.Served()
			require.EqualValues(t, len(c.pieces), pieces)
			require.EqualValues(t, size+int64(5*len(c.pieces)), bytes)
		})
	}
}

// takeFrom offers piece 0 of a bad peer first and of the CDN when that failed,
// and gives what was told about the failure.
func takeFrom(t *testing.T, c *cdn, offer func(...int) string) (result peer.Result, told request, failed request) {
	n := newNode(t)
	n.pull = func(count int, r request) string {
		switch {
		case count == 1:
			return offer(0)
		case r.get("result") == "500":
			n.await(func(r request) bool { return r.path == "/peer/piece/error" })
			return c.offer(0)
		}
		n.awaitReport(0)
		return done(c.sum())
	}
	result, err := download(t, newPeer(t, nil, n.addr()))
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Equal(t, 1, result.PieceFailures)
	require.Equal(t, []int{0, 0}, result.Offered)
	require.Len(t, n.calls("/peer/piece/error"), 1)
	return result, n.calls("/peer/piece/error")[0], n.calls("/peer/task")[1]
}

func TestACorruptPieceIsTold(t *testing.T) {
	for name, size := range map[string]int64{"content": 500, "empty": 0} {
		t.Run(name, func(t *testing.T) {
			c := newCDN(t, size, pieceSize)
			bad, offer := seeded(t, c, peer.Faults{CorruptServed: true})
			_, told, failed := takeFrom(t, c, offer)
			require.Equal(t, "FILE_MD5_NOT_MATCH", told.get("errorType"))
			require.Equal(t, rangeOf(0), told.get("range"))
			require.Equal(t, "127.0.0.1", told.get("dstIp"))
			require.Equal(t, bad.Cid(), told.get("dstCid"))
			require.NotEqual(t, told.get("realMd5"), told.get("expectedMd5"))
			require.Len(t, told.get("realMd5"), hex.EncodedLen(16))
			require.Equal(t, "701 "+rangeOf(0)+" "+bad.Cid(), failed.get("status")+" "+failed.get("range")+" "+failed.get("dstCid"))
		})
	}
}

func TestARefusedPieceIsTold(t *testing.T) {
	c := newCDN(t, 500, pieceSize)
	bad, offer := seeded(t, c, peer.Faults{RefuseServed: true})
	_, told, _ := takeFrom(t, c, offer)
	require.Equal(t, "errorType=FILE_NOT_EXIST&srcCid="+told.get("srcCid")+"&dstCid="+bad.Cid()+
		"&dstIp=&taskId="+taskID+"&range=&realMd5=&expectedMd5=", told.query)
}

// A piece is reported as semi-successful before it is in the file; who is sent
// for it in that window gets something else.
func TestASemiSuccessfulPieceIsServedWrong(t *testing.T) {
	c, n := newCDN(t, length(2), pieceSize), newNode(t)
	gate := make(chan struct{})
	reported := make(chan struct{})
	n.pull = func(count int, r request) string {
		switch {
		case count == 1:
			return c.offer(0)
		case count == 2:
			close(reported)
			<-gate
			return c.offer(1)
		case r.get("range") == rangeOf(0):
			return wait
		}
		n.awaitReport(0)
		n.awaitReport(1)
		return done(c.sum())
	}
	early := newPeer(t, func(cfg *peer.Config) {
		cfg.Faults.BeforeWrite = func(ctx context.Context, num int) {
			select {
			case <-gate:
			case <-ctx.Done():
			}
		}
	}, n.addr())
	ended := make(chan error, 1)
	go func() {
		_, err := early.Download(context.Background())
		ended <- err
	}()
	<-reported
	_, told, _ := takeFrom(t, newCDNLike(t, c, 1), func(nums ...int) string {
		return c.offers(early.Cid(), early.Addr(), pathOf(n), nums...)
	})
	require.Equal(t, "FILE_MD5_NOT_MATCH", told.get("errorType"))
	close(gate)
	require.NoError(t, <-ended)
	requireContent(t, c, early.Result())
}

// newCDNLike serves the first pieces of another as a file of their own.
func newCDNLike(t *testing.T, c *cdn, pieces int) *cdn {
	part := newCDN(t, int64(pieces)*995, pieceSize)
	copy(part.pieces, c.pieces)
	part.content = c.content[:pieces*995]
	return part
}

func TestACrashedPeerTellsNobody(t *testing.T) {
	c, n := newCDN(t, length(3), pieceSize, 1, 2), newNode(t)
	n.pull = func(count int, r request) string {
		switch count {
		case 1:
			return c.offer(0, 1, 2)
		case 2:
			n.awaitReport(0)
			c.open(1)
		}
		return wait
	}
	p := newPeer(t, func(cfg *peer.Config) { cfg.Faults.CrashAfter = 2 }, n.addr())
	_, err := download(t, p)
	require.ErrorIs(t, err, peer.ErrVanished)
	require.Len(t, n.calls("/peer/piece/suc"), 1)
	require.Empty(t, n.calls("/task/metrics"))
	_, err = http.Get("http://" + p.Addr() + "/server/ping") //nolint:bodyclose // it fails
	require.Error(t, err)
	require.NoError(t, p.Leave(context.Background()))
	require.Empty(t, n.calls("/peer/service/down"))
}

func TestAPeerThatLeavesSaysSo(t *testing.T) {
	n := newNode(t)
	n.pull = answers(done(""))
	p := newPeer(t, nil, n.addr())
	_, err := download(t, p)
	require.NoError(t, err)
	require.NoError(t, p.Leave(context.Background()))
	require.Equal(t, "taskId="+taskID+"&cid="+p.Cid(), n.calls("/peer/service/down")[0].query)
	_, err = http.Get("http://" + p.Addr() + "/server/ping") //nolint:bodyclose // it fails
	require.Error(t, err)
}

func TestTheCDNPatternServesNobody(t *testing.T) {
	c, n := newCDN(t, length(2), pieceSize), newNode(t)
	n.pull = finishing(n, c, c.offer(0, 1))
	p := newPeer(t, func(cfg *peer.Config) { cfg.Pattern = peer.PatternCDN }, n.addr())
	result, err := download(t, p)
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Empty(t, p.Addr())
	require.Contains(t, n.calls("/peer/registry")[0].body, `"port":0,`)
}
