package cdn_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

type update = registryv1.UpdateTaskRequest

func TestStateIsReportedToTheRegistry(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	g := newGate(t, content, 5<<18)
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
		g.ServeHTTP(w, r)
	})
	id := idOf("told")
	stream := n.startDefaultSeed(t, id, o.source())
	eventually(t, func() bool { return statusesOf(n.records.of(id)) == "RUNNING" })
	g.open()
	_, err := receiveAll(stream)
	require.NoError(t, err)
	eventually(t, func() bool { return statusesOf(n.records.of(id)) == "RUNNING SUCCESS" })
	for _, u := range n.records.of(id) {
		require.Equal(t, "cdn-1", u.GetOwner())
		require.EqualValues(t, 7, u.GetEpoch())
		require.EqualValues(t, piece.MinSize, u.GetPieceSize())
		require.EqualValues(t, len(content), u.GetSource().GetLength())
		require.Equal(t, `"v1"`, u.GetSource().GetEtag())
		require.Equal(t, modified.Format(http.TimeFormat), u.GetSource().GetLastModified())
	}

	// A higher epoch is stored and reported, a lower one is refused.
	stream, err = n.Seed(t.Context(), &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 9})
	require.NoError(t, err)
	_, err = receiveAll(stream)
	require.NoError(t, err)
	stream, err = n.Seed(t.Context(), &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8})
	require.NoError(t, err)
	_, err = receiveAll(stream)
	requireReason(t, err, rpcerr.StaleEpoch)
	eventually(t, func() bool { return statusesOf(n.records.of(id)) == "RUNNING SUCCESS SUCCESS" })
	require.EqualValues(t, 9, n.records.of(id)[2].GetEpoch())

	o.set(answer(404))
	_, err = n.seed(t, idOf("missing"), o.source())
	require.Error(t, err)
	eventually(t, func() bool { return statusesOf(n.records.of(idOf("missing"))) == "FAILED" })
	require.Nil(t, n.records.of(idOf("missing"))[0].GetSource())
}

func TestFetchDoesNotWaitForTheRegistry(t *testing.T) {
	content := randomContent(1000)
	o := serveOrigin(t, plainFile(content))
	for name, err := range map[string]error{
		"refuses": rpcerr.Status(rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "stale")).Err(),
		"fails":   rpcerr.Status(rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "away")).Err(),
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, cdn.Config{})
			n.records.setError(err)
			id := idOf(name)
			n.mustSeed(t, id, o.source(), content)
			eventually(t, func() bool { return len(n.records.of(id)) > 0 })
			n.records.setError(nil)
			id = idOf(name + " no more")
			n.mustSeed(t, id, o.source(), content)
			eventually(t, func() bool {
				statuses := statusesOf(n.records.of(id))
				return statuses == "SUCCESS" || statuses == "RUNNING SUCCESS"
			})
		})
	}
}
