package cdn_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// All good pieces of a copy are used, although it has a damaged and a missing piece, breaks
// a connection and answers late. Only the other two pieces are fetched from the source.
func TestSourceIsAskedOnlyForPiecesThatTheCopiesLack(t *testing.T) {
	content := randomContent(12*full + 5)
	reg := newFakeRegistry(t)
	o := serveOrigin(t, file(content, `"v1"`))
	const broken, rotten, gone = 1, 4, 7
	var breaks atomic.Int32
	w := newCopyServer(content, `"v1"`, func(num int32) http.HandlerFunc {
		switch num {
		case broken:
			if breaks.Add(1) == 1 {
				return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
			}
		case rotten:
			bytes := wrapPiece(content[rotten*full : (rotten+1)*full])
			bytes[1000]++
			return partial206(bytes)
		case gone:
			return answer(http.StatusNotFound)
		}
		return nil
	})
	w.stat = func(n int32) error {
		if n == 1 {
			return status.Error(codes.DeadlineExceeded, "a cold disk")
		}
		return nil
	}
	reg.joinCopyServer(t, "w", w)
	b := reg.join(t, "b", cdn.Config{})
	eventually(t, func() bool { return b.isMember("w") })
	id := idOf("gathered")
	got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 7, Expected: w.events[0].GetFacts(), Copies: []string{"w"},
	}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	require.Equal(t, []string{rangeOf(rotten, rotten+1, len(content)), rangeOf(gone, gone+1, len(content))}, o.ranges(0))
	require.EqualValues(t, 2, w.stats.Load())
}

// A copy that fails to send pieces is abandoned after a few failures.
func TestCopyIsAbandonedAfterConsecutiveFailures(t *testing.T) {
	content := randomContent(40 * full)
	reg := newFakeRegistry(t)
	o := serveOrigin(t, file(content, `"v1"`))
	var asked atomic.Int32
	w := newCopyServer(content, `"v1"`, func(int32) http.HandlerFunc {
		asked.Add(1)
		return answer(http.StatusNotFound)
	})
	reg.joinCopyServer(t, "w", w)
	b := reg.join(t, "b", cdn.Config{})
	eventually(t, func() bool { return b.isMember("w") })
	id := idOf("gathered")
	got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 7, Expected: w.events[0].GetFacts(), Copies: []string{"w"},
	}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	require.Less(t, asked.Load(), int32(20))
}

// Pieces of two versions of the same length without validators are never mixed.
func TestVersionsWithoutValidatorsAreNotMixed(t *testing.T) {
	content, other := randomContent(3*full), randomContent(3*full)
	for i := range other {
		other[i] ^= 0xff
	}
	facts := &cdnv1.SourceFacts{Length: int64(len(content)), PieceSize: size}
	for name, theirs := range map[string][]*cdnv1.FollowResponse{
		"another piece":      followEvents(other, ""),
		"no piece in common": append(followEvents(other, "")[:1], followEvents(other, "")[3:]...), // the last piece alone
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFakeRegistry(t)
			o := serveOrigin(t, newGate(t, content, 2*full+1000).ServeHTTP)
			id := idOf("unnamed")
			a := reg.join(t, "a", cdn.Config{})
			a.seedSmall(t, id, o.source())
			a.awaitPieces(t, id, 2)
			w := newCopyServer(other, "", allPieces)
			w.events = theirs
			theirs[0].GetFacts().LastModified = ""
			if len(theirs) < 5 {
				w.events[len(w.events)-1].GetResult().PieceCount = 1
			}
			reg.joinCopyServer(t, "w", w)
			b := reg.join(t, "b", cdn.Config{})
			eventually(t, func() bool { return b.isMember("w") && b.isMember("a") })
			o.set(plainFile(content))
			got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{
				TaskId: id, Source: o.source(), Epoch: 7, Expected: facts, Copies: []string{"a", "w"},
			}))
			require.NoError(t, err)
			b.check(t, id, got, content)
		})
	}
}
