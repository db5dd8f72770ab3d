package cdn_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// Replicas whose owner is unavailable do not wait for each other, so that they find the
// owner when it returns.
func TestReplicasDoNotWaitForEachOther(t *testing.T) {
	content := randomContent(3*full + 7)
	reg := newFakeRegistry(t)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("each other")
	last := newCopyServer(content, `"v1"`, allPieces)
	last.events = followEvents(nil, `"v1"`)
	last.events[len(last.events)-1].GetResult().PieceCount = 0 // it has no pieces
	reg.joinCopyServer(t, "last", last)
	reg.write(id, o, 7, "a", "b", "c", "last")
	b, c := reg.join(t, "b", cdn.Config{}), reg.join(t, "c", cdn.Config{})
	asked := last.stats.Load()
	eventually(t, func() bool { return b.isMember("c") && c.isMember("b") && last.stats.Load() > asked+6 })
	a := reg.join(t, "a", cdn.Config{})
	got, err := receiveAll(a.seedSmall(t, id, o.source()))
	require.NoError(t, err)
	a.check(t, id, got, content)
	b.awaitWhole(t, id, content)
	c.awaitWhole(t, id, content)
	require.Len(t, o.seen(), 1)
}

// A replica that becomes the owner during a copy continues the copy and reports when it is
// whole: a Seed may come late, and the previous owner may be stopping.
func TestReplicaPromotedDuringACopyContinuesIt(t *testing.T) {
	content := randomContent(5*full + 7)
	reg := newFakeRegistry(t)
	o := serveOrigin(t, answer(http.StatusNotFound))
	id := idOf("mid-copy")
	opened := make(chan struct{})
	w := newCopyServer(content, `"v1"`, func(num int32) http.HandlerFunc {
		select {
		case <-opened:
			return nil
		default:
		}
		if num < 2 {
			return nil
		}
		return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	})
	reg.joinCopyServer(t, "a", w)
	reg.write(id, o, 7, "a", "b")
	b := reg.join(t, "b", cdn.Config{})
	b.awaitPieces(t, id, 2)
	reg.write(id, o, 8, "b", "a")
	close(opened)
	b.awaitWhole(t, id, content)
	eventually(t, func() bool {
		for _, u := range reg.of(id) {
			if u.GetOwner() == "b" && u.GetEpoch() == 8 && u.GetStatus() == registryv1.TaskStatus_TASK_STATUS_SUCCESS {
				return true
			}
		}
		return false
	})
	require.Empty(t, o.seen())
}
