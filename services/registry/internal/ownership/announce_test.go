package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestAnnouncedCopyIsAddedIfItIsOfTheSameVersion(t *testing.T) {
	whole := record.Copy{ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Whole: true}
	part, other, provisional := whole, whole, whole
	part.Whole = false
	other.Source = &record.Source{Length: 9, ETag: "w"}
	provisional.Source = &record.Source{Length: -1, ETag: "v"}
	cluster := clusterOf(2, "a", "b", "c", "d-")
	announce := func(cur record.Task, cdn string, c record.Copy) []any {
		return assignment(next(t, cur, cluster, ownership.Announce{CDN: cdn, Copy: c}).Next)
	}
	require.Equal(t, []any{"c", []string(nil), "", int64(1)}, announce(record.Task{ID: "t"}, "c", whole))
	require.Equal(t, []any{"a", []string{"b", "c"}, "s", int64(4)}, announce(recordOf("a", "b"), "c", whole), "a whole copy is added beyond the number of copies")
	require.Equal(t, []any{"a", []string{"b", "d"}, "s", int64(4)}, announce(recordOf("a", "b"), "d", whole))
	require.Equal(t, []any{"a", []string{"b", "c"}, "s", int64(4)}, announce(recordOf("a", "b"), "c", provisional))
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(4)}, announce(recordOf("a", "b"), "c", part))
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, announce(recordOf("a"), "c", part))
	require.Equal(t, []any{"a", []string(nil), "s", int64(4)}, announce(recordOf("a"), "d", part), "a part on a draining CDN is not added")
	require.Equal(t, []any{"a", []string(nil), "s", int64(4)}, announce(recordOf("a"), "c", other))
	for _, cur := range []record.Task{{ID: "t"}, recordOf("a", "b")} {
		require.Equal(t, cdns("c"), next(t, cur, cluster, ownership.Announce{CDN: "c", Copy: whole}).Present)
	}
	unknown := recordOf("a")
	unknown.Source, unknown.PieceSize = nil, 0
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, announce(unknown, "c", other))
	require.Equal(t, record.StatusSuccess, next(t, record.Task{ID: "t"}, cluster, ownership.Announce{CDN: "c", Copy: whole}).Next.Status)
	require.Equal(t, record.StatusRunning, next(t, record.Task{ID: "t"}, cluster, ownership.Announce{CDN: "c", Copy: part}).Next.Status)
	whole.Source = nil
	require.False(t, next(t, record.Task{ID: "t"}, cluster, ownership.Announce{CDN: "c", Copy: whole}).Changed, "the version of the copy is unknown")
	requireRefused(t, recordOf("a"), cluster, ownership.Announce{CDN: "x", Copy: whole}, rpcerr.NoCDN)
}
