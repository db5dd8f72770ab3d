package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// cluster is a world: "a" is a READY CDN, "a-" one that drains, "s:s" a
// scheduler; "a@z" stands in zone z.
func cluster(copies int, members ...string) ownership.World {
	all := make(map[record.MemberKey]record.Member)
	var cdns []record.Member
	for _, text := range members {
		m := record.Member{Role: record.RoleCDN, ID: text[:1], State: record.StateReady, Zone: "z"}
		switch {
		case len(text) == 3 && text[1] == ':':
			m = record.Member{Role: record.RoleScheduler, ID: text[2:], State: record.StateReady}
		case len(text) == 3:
			m.Zone = text[2:]
		case len(text) == 2:
			m.State = record.StateDraining
		}
		all[m.Key()] = m
		if m.Role == record.RoleCDN {
			cdns = append(cdns, m)
		}
	}
	return ownership.World{
		Member: func(k record.MemberKey) (record.Member, bool) { m, ok := all[k]; return m, ok },
		CDNs:   func() []record.Member { return cdns },
		Load:   func(string) ownership.Load { return ownership.Load{} },
		Copies: copies,
	}
}

// held is a whole record: owner, replicas, of scheduler s in epoch 4.
func held(owner string, replicas ...string) record.Task {
	return record.Task{
		ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Status: record.StatusSuccess,
		Owner: owner, Replicas: replicas, Scheduler: "s", Epoch: 4, Revision: 8,
	}
}

func cdns(ids ...string) []record.MemberKey {
	var keys []record.MemberKey
	for _, id := range ids {
		keys = append(keys, record.MemberKey{Role: record.RoleCDN, ID: id})
	}
	return keys
}

func next(t *testing.T, cur record.Task, w ownership.World, req ownership.Request) ownership.Step {
	t.Helper()
	step, err := ownership.Next(cur, w, req)
	require.NoError(t, err)
	require.Equal(t, cur.Revision, step.Next.Revision)
	return step
}

func hands(t record.Task) []any { return []any{t.Owner, t.Replicas, t.Scheduler, t.Epoch} }

func refused(t *testing.T, cur record.Task, w ownership.World, req ownership.Request, reason rpcerr.Reason) {
	t.Helper()
	step, err := ownership.Next(cur, w, req)
	require.Equal(t, reason, rpcerr.ReasonOf(err), "%v", err)
	require.False(t, step.Changed)
}

func TestClaimGivesOwnerReplicasAndScheduler(t *testing.T) {
	step := next(t, record.Task{ID: "t"}, cluster(2, "a", "b-", "c", "s:s"), ownership.Resolve{Scheduler: "s", URL: "http://h/"})
	require.ElementsMatch(t, []string{"a", "c"}, step.Next.Copies())
	require.Equal(t, []any{"s", int64(1), record.StatusWaiting, "http://h/", ownership.KindClaim},
		[]any{step.Next.Scheduler, step.Next.Epoch, step.Next.Status, step.Next.URL, step.Kind})
	require.ElementsMatch(t, append(cdns("a", "c"), record.MemberKey{Role: record.RoleScheduler, ID: "s"}), step.There)
	require.Empty(t, step.Gone)
}

func TestClaimsThatAreRefused(t *testing.T) {
	none, by := record.Task{ID: "t"}, ownership.Resolve{Scheduler: "s", URL: "http://h/"}
	refused(t, none, cluster(2, "a-", "s:s"), by, rpcerr.NoCDN)
	refused(t, none, cluster(2, "a"), by, rpcerr.NoScheduler)
	refused(t, none, cluster(2, "a", "s:s"), ownership.Resolve{Scheduler: "s"}, rpcerr.InvalidArgument)
	refused(t, held("a", "b"), cluster(2, "b"), ownership.Resolve{Scheduler: "s"}, rpcerr.NoScheduler)
	_, err := ownership.Next(none, cluster(2, "a-", "s:s"), by)
	require.Equal(t, codes.FailedPrecondition, rpcerr.From(err).Code)
}

func TestHealthyRecordStays(t *testing.T) {
	for _, w := range []ownership.World{
		cluster(2, "a", "b", "s:s"), cluster(3, "a", "b", "c", "s:s"), cluster(2, "a", "s:s"), cluster(2, "a-", "b", "s:s"),
	} {
		for _, by := range []string{"s", "other"} {
			require.False(t, next(t, held("a", "b"), w, ownership.Resolve{Scheduler: by}).Changed)
		}
	}
}

func TestOwnerGone(t *testing.T) {
	for name, c := range map[string]struct {
		cur   record.Task
		world ownership.World
		want  []any
		facts bool
	}{
		"first READY replica":         {held("a", "b", "c"), cluster(2, "b-", "c", "s:s"), []any{"c", []string{"b"}, "s", int64(5)}, true},
		"another is placed":           {held("a", "b"), cluster(2, "b", "c", "s:s"), []any{"b", []string{"c"}, "s", int64(5)}, true},
		"stranger before draining":    {held("a", "b"), cluster(1, "b-", "c", "s:s"), []any{"c", []string{"b"}, "s", int64(5)}, true},
		"draining if there is nobody": {held("a", "b"), cluster(2, "b-", "s:s"), []any{"b", []string{}, "s", int64(5)}, true},
		"stranger alone":              {held("a", "b"), cluster(2, "c", "s:s"), []any{"c", []string{}, "s", int64(5)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			step := next(t, c.cur, c.world, ownership.Resolve{Scheduler: "s"})
			require.Equal(t, c.want, hands(step.Next))
			require.Contains(t, step.Gone, cdns("a")[0])
			require.Contains(t, step.There, step.Next.OwnerKey())
			require.Equal(t, ownership.KindOwner, step.Kind)
			require.Equal(t, c.facts, step.Next.Source != nil && step.Next.PieceSize == 4)
			if !c.facts {
				require.Equal(t, record.StatusWaiting, step.Next.Status)
			}
		})
	}
}

func TestOwnerLostByWordStandsDown(t *testing.T) {
	last, w := held("a", "b"), cluster(2, "a", "b", "c", "s:s")
	step := next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"})
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(step.Next))
	require.Empty(t, step.Gone, "the epoch fences it, not its key")

	step = next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a", Excluded: []string{"b"}})
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, hands(step.Next))
	require.Equal(t, record.StatusRunning, step.Next.Status, "there are copies to take from")

	refused(t, held("a", "b"), cluster(2, "a", "b", "s:s"), ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a", Excluded: []string{"b"}}, rpcerr.NoCDN)
	refused(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", LostOwner: "a"}, rpcerr.InvalidArgument)
	require.Equal(t, "b", next(t, held("a", "b"), cluster(2, "b", "s:s"), ownership.Resolve{Scheduler: "s", LostOwner: "a"}).Next.Owner,
		"who is no member needs no epoch to be lost in")
	last.Epoch = 3
	require.False(t, next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"}).Changed, "lost in an old epoch")
}

func TestLostScheduler(t *testing.T) {
	last, w := held("a", "b"), cluster(2, "a", "b", "s:s", "s:r")
	step := next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "r", Last: &last, LostScheduler: "s"})
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, hands(step.Next))
	require.Equal(t, ownership.KindScheduler, step.Kind)
	refused(t, held("a", "b"), w, ownership.Resolve{Scheduler: "r", LostScheduler: "s"}, rpcerr.InvalidArgument)

	step = next(t, held("a", "b"), cluster(2, "a", "s:r"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, hands(step.Next), "a scheduler's loss costs no replica")
	require.Equal(t, []record.MemberKey{{Role: record.RoleScheduler, ID: "s"}}, step.Gone)

	step = next(t, held("a", "b"), cluster(2, "b", "s:r"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, []any{"b", []string{}, "r", int64(5)}, hands(step.Next), "both in one step, and one epoch")
}

func TestFailedTaskBeginsAnewElsewhere(t *testing.T) {
	cur := held("a", "b")
	cur.Status, cur.Source, cur.PieceSize = record.StatusFailed, nil, 0
	require.Equal(t, record.StatusWaiting, next(t, cur, cluster(2, "b", "s:s"), ownership.Resolve{Scheduler: "s"}).Next.Status)
	require.Equal(t, record.StatusWaiting, next(t, cur, cluster(2, "a", "b"), ownership.Move{}).Next.Status)
}

func TestRestoredRecordKeepsItsCopies(t *testing.T) {
	last, none := held("a", "b"), record.Task{ID: "t"}
	by := ownership.Resolve{Scheduler: "s", URL: "http://h/", Last: &last}
	step := next(t, none, cluster(3, "a", "c", "s:s"), by)
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(4)}, hands(step.Next))
	require.Equal(t, ownership.KindRestored, step.Kind)
	require.Equal(t, last.Source, step.Next.Source)

	step = next(t, none, cluster(2, "b", "c", "s:s"), by)
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(step.Next), "an owner that is not back yet is not forgotten")
	step = next(t, none, cluster(2, "c", "s:s"), by)
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, hands(step.Next))
	by.Scheduler = "r"
	step = next(t, none, cluster(2, "a", "b", "s:r"), by)
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, hands(step.Next))
}

func TestEpochsThatAreRememberedDoNotComeBack(t *testing.T) {
	w := cluster(2, "a", "b", "s:s")
	last := held("b", "a")
	step := next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last})
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(5)}, hands(step.Next), "the same epoch had other hands")
	last.Epoch, last.Source = 9, &record.Source{Length: 9, ETag: "w"}
	require.EqualValues(t, 10, next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last}).Next.Epoch)
	last = held("a", "b")
	last.Epoch = 9
	require.EqualValues(t, 9, next(t, held("a", "b"), w, ownership.Resolve{Scheduler: "s", Last: &last}).Next.Epoch)

	c := record.Copy{ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Epoch: 7, Whole: true}
	require.EqualValues(t, 8, next(t, record.Task{ID: "t"}, w, ownership.Announce{CDN: "a", Copy: c}).Next.Epoch)
	require.EqualValues(t, 8, next(t, held("a", "b"), w, ownership.Announce{CDN: "a", Copy: c}).Next.Epoch)
	c.Epoch = 4
	require.False(t, next(t, held("a", "b"), w, ownership.Announce{CDN: "a", Copy: c}).Changed)
}

// What was proposed while the store was away holds when it is back, though the
// record is still the one from before.
func TestNewerOwnerThatIsRememberedGoesOn(t *testing.T) {
	last, w := held("b", "a"), cluster(2, "a", "b", "c", "s:s")
	last.Epoch = 5
	by := ownership.Resolve{Scheduler: "s", Last: &last}
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(next(t, held("a", "b"), w, by).Next))
	require.Equal(t, []any{"b", []string{}, "s", int64(5)}, hands(next(t, held("a", "b"), cluster(2, "b", "s:s"), by).Next))
	last.Epoch = 9
	fresh := held("c", "a")
	fresh.Source, fresh.PieceSize, fresh.Status, fresh.Epoch = nil, 0, record.StatusWaiting, 1
	step := next(t, fresh, w, by)
	require.Equal(t, []any{"b", []string{"a", "c"}, "s", int64(9)}, hands(step.Next))
	require.Equal(t, last.Source, step.Next.Source)

	other := held("c", "a")
	other.Source = &record.Source{Length: 9, ETag: "w"}
	require.Equal(t, []any{"c", []string{"a"}, "s", int64(10)}, hands(next(t, other, w, by).Next), "two versions are not mixed")
	by.LostOwner = "b"
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(10)}, hands(next(t, held("a", "b"), w, by).Next))
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(10)}, hands(next(t, held("a", "b"), cluster(2, "a", "b-", "s:s"), ownership.Resolve{Scheduler: "s", Last: &last}).Next))
}

func TestTaskOfAnOutageIsClaimedWhereItBegan(t *testing.T) {
	w := cluster(2, "a", "b", "c", "s:s")
	for _, began := range []string{"a", "b", "c"} {
		last := record.Task{ID: "t", Owner: began, Scheduler: "s", URL: "http://h/", Status: record.StatusWaiting}
		step := next(t, record.Task{ID: "t"}, w, ownership.Resolve{Scheduler: "s", Last: &last, URL: "http://h/"})
		require.Equal(t, []any{began, int64(1), ownership.KindClaim}, []any{step.Next.Owner, step.Next.Epoch, step.Kind})
		require.Len(t, step.Next.Replicas, 1)
	}
}
