package ownership_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestRepair(t *testing.T) {
	for name, c := range map[string]struct {
		cur   record.Task
		world ownership.World
		want  []any
		kind  ownership.Kind
	}{
		"replica gone":    {held("a", "b"), cluster(2, "a", "c"), []any{"a", []string{"c"}, "s", int64(4)}, ownership.KindReplicas},
		"owner gone":      {held("a", "b"), cluster(2, "b", "c"), []any{"b", []string{"c"}, "s", int64(5)}, ownership.KindRepair},
		"replica drains":  {held("a", "b"), cluster(2, "a", "b-", "c"), []any{"a", []string{"b", "c"}, "s", int64(4)}, ownership.KindReplicas},
		"nobody to place": {held("a", "c"), cluster(2, "a"), []any{"a", []string{}, "s", int64(4)}, ownership.KindReplicas},
		"another zone":    {held("a"), cluster(2, "a@x", "b@x", "c@y"), []any{"a", []string{"c"}, "s", int64(4)}, ownership.KindReplicas},
	} {
		t.Run(name, func(t *testing.T) {
			step := next(t, c.cur, c.world, ownership.Repair{CDN: c.want[0].(string)})
			require.Equal(t, c.want, hands(step.Next))
			require.Equal(t, c.kind, step.Kind)
			require.True(t, step.Changed)
			for _, id := range c.cur.Copies() {
				require.Equal(t, !step.Next.Names(id), slices.Contains(step.Gone, cdns(id)[0]), "%s is dropped for being gone", id)
			}
			for _, id := range step.Next.Copies() {
				if !c.cur.Names(id) {
					require.Contains(t, step.There, cdns(id)[0])
				}
			}
		})
	}
	require.False(t, next(t, held("a", "b"), cluster(2, "a", "b", "c"), ownership.Repair{CDN: "b"}).Changed)
	require.False(t, next(t, held("a", "b", "c"), cluster(2, "a", "b", "c"), ownership.Repair{CDN: "b"}).Changed, "one too many stays")
	refused(t, record.Task{ID: "t"}, cluster(2, "a"), ownership.Repair{CDN: "a"}, rpcerr.TaskNotFound)
	refused(t, held("a", "b"), cluster(2, "a", "b"), ownership.Repair{CDN: "c"}, rpcerr.StaleEpoch)
}

func TestMove(t *testing.T) {
	w := cluster(2, "a-", "b", "c")
	require.Equal(t, []any{"b", []string{"a", "c"}, "s", int64(5)}, hands(next(t, held("a", "b"), w, ownership.Move{Epoch: 4}).Next))
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, hands(next(t, held("a", "b"), w, ownership.Move{To: "c"}).Next))
	require.False(t, next(t, held("b", "a"), cluster(2, "a", "b"), ownership.Move{To: "b"}).Changed)
	step := next(t, held("a"), cluster(1, "a-", "c"), ownership.Move{})
	require.Equal(t, []any{"c", []string{"a"}, "s", int64(5)}, hands(step.Next))
	require.Equal(t, record.StatusRunning, step.Next.Status, "it is not whole there yet")
	require.NotNil(t, step.Next.Source)

	refused(t, held("a", "b"), w, ownership.Move{Epoch: 3}, rpcerr.StaleEpoch)
	refused(t, held("a", "b"), w, ownership.Move{To: "a"}, rpcerr.NoCDN)
	refused(t, held("a", "b"), w, ownership.Move{To: "x"}, rpcerr.NoCDN)
	refused(t, held("a", "b"), cluster(2, "a", "b-"), ownership.Move{}, rpcerr.NoCDN)
	refused(t, record.Task{ID: "t"}, w, ownership.Move{}, rpcerr.TaskNotFound)
}

func TestResign(t *testing.T) {
	w := cluster(2, "a", "b", "c")
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, hands(next(t, held("a", "b"), w, ownership.Resign{CDN: "b"}).Next))
	require.Equal(t, []any{"b", []string{"c"}, "s", int64(5)}, hands(next(t, held("a", "b"), w, ownership.Resign{CDN: "a"}).Next))
	require.Equal(t, []any{"a", []string{}, "s", int64(4)}, hands(next(t, held("a", "b"), cluster(2, "a", "b"), ownership.Resign{CDN: "b"}).Next),
		"who resigned gets no copy again")
	require.False(t, next(t, held("a", "b"), w, ownership.Resign{CDN: "c"}).Changed)
	require.False(t, next(t, record.Task{ID: "t"}, w, ownership.Resign{CDN: "c"}).Changed)
	refused(t, held("a"), cluster(2, "a"), ownership.Resign{CDN: "a"}, rpcerr.NoCDN)
}

func TestAnnouncedCopies(t *testing.T) {
	whole := record.Copy{ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Whole: true}
	part, other, provisional := whole, whole, whole
	part.Whole = false
	other.Source = &record.Source{Length: 9, ETag: "w"}
	provisional.Source = &record.Source{Length: -1, ETag: "v"}
	w := cluster(2, "a", "b", "c", "d-")
	announce := func(cur record.Task, cdn string, c record.Copy) []any {
		return hands(next(t, cur, w, ownership.Announce{CDN: cdn, Copy: c}).Next)
	}
	require.Equal(t, []any{"c", []string(nil), "", int64(1)}, announce(record.Task{ID: "t"}, "c", whole))
	require.Equal(t, []any{"a", []string{"b", "c"}, "s", int64(4)}, announce(held("a", "b"), "c", whole), "one more than needed")
	require.Equal(t, []any{"a", []string{"b", "d"}, "s", int64(4)}, announce(held("a", "b"), "d", whole))
	require.Equal(t, []any{"a", []string{"b", "c"}, "s", int64(4)}, announce(held("a", "b"), "c", provisional))
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(4)}, announce(held("a", "b"), "c", part))
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, announce(held("a"), "c", part))
	require.Equal(t, []any{"a", []string(nil), "s", int64(4)}, announce(held("a"), "d", part), "one that drains gets nothing new")
	require.Equal(t, []any{"a", []string(nil), "s", int64(4)}, announce(held("a"), "c", other))
	for _, cur := range []record.Task{{ID: "t"}, held("a", "b")} {
		require.Equal(t, cdns("c"), next(t, cur, w, ownership.Announce{CDN: "c", Copy: whole}).There)
	}
	unknown := held("a")
	unknown.Source, unknown.PieceSize = nil, 0
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, announce(unknown, "c", other))
	require.Equal(t, record.StatusSuccess, next(t, record.Task{ID: "t"}, w, ownership.Announce{CDN: "c", Copy: whole}).Next.Status)
	require.Equal(t, record.StatusRunning, next(t, record.Task{ID: "t"}, w, ownership.Announce{CDN: "c", Copy: part}).Next.Status)
	whole.Source = nil
	require.False(t, next(t, record.Task{ID: "t"}, w, ownership.Announce{CDN: "c", Copy: whole}).Changed, "nobody knows of what")
	refused(t, held("a"), w, ownership.Announce{CDN: "x", Copy: whole}, rpcerr.NoCDN)
}

func TestProposalsWhileTheStoreIsAway(t *testing.T) {
	w := cluster(2, "a", "b", "c-", "s:s")
	propose := func(cur record.Task, r ownership.Resolve) record.Task {
		t.Helper()
		got, err := ownership.Propose(cur, w, r)
		require.NoError(t, err)
		return got
	}
	by := ownership.Resolve{Scheduler: "r", URL: "http://h/"}
	unknown := propose(record.Task{ID: "t"}, by)
	require.Equal(t, []any{[]string(nil), "r", int64(0)}, hands(unknown)[1:])
	by.Last = &unknown
	require.Equal(t, unknown, propose(record.Task{ID: "t"}, by), "whoever began goes on")
	by.LostOwner = unknown.Owner
	again := propose(record.Task{ID: "t"}, by)
	require.NotEqual(t, unknown.Owner, again.Owner)
	require.Zero(t, again.Epoch)

	last := held("a", "b")
	lost := ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"}
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(propose(held("a", "b"), lost)))
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(propose(record.Task{ID: "t"}, lost)), "from what the caller remembers")
	_, err := ownership.Propose(record.Task{ID: "t"}, cluster(2, "c-"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
}
