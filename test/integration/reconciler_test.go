package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn"
	"github.com/supernode-ha/supernode/test/origin"
)

// copiesOf are the CDNs of a record, the owner first.
func copiesOf(rec *registryv1.TaskRecord) []string {
	return append([]string{rec.GetOwner()}, rec.GetReplicas()...)
}

// thirdOf is the one of a, b and c that a record does not name.
func thirdOf(rec *registryv1.TaskRecord) string {
	for _, id := range []string{"a", "b", "c"} {
		if !slices.Contains(copiesOf(rec), id) {
			return id
		}
	}
	return ""
}

func trio(t *testing.T, cfg cdn.Config) *fleet {
	f := newFleet(t, 2)
	for _, id := range []string{"a", "b", "c"} {
		f.launch(id, t.TempDir(), cfg)
	}
	return f
}

func TestReplicaIsMadeAnew(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	f.until(func() error { return f.whole("/f", 2) })
	third := thirdOf(rec)
	f.sink(rec.GetReplicas()[0])
	f.until(func() error { return f.whole("/f", 2) })
	now := f.record("/f")
	require.Equal(t, []string{rec.GetOwner(), third}, copiesOf(now))
	require.Equal(t, rec.GetEpoch(), now.GetEpoch(), "the owner is the same")
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}

func TestReplicaOfAnOwnerThatIsGoneOwnsTheTask(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	f.until(func() error { return f.whole("/f", 2) })
	third := thirdOf(rec)
	f.sink(rec.GetOwner())
	f.until(func() error { return f.whole("/f", 2) })
	now := f.record("/f")
	require.Equal(t, []string{rec.GetReplicas()[0], third}, copiesOf(now))
	require.Equal(t, rec.GetEpoch()+1, now.GetEpoch())
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}

func TestDiskThatIsLostIsFilledFromTheOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.launch("a", t.TempDir(), cdn.Config{})
	f.launch("b", t.TempDir(), cdn.Config{})
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	f.until(func() error { return f.whole("/f", 2) })
	lost := rec.GetReplicas()[0]
	f.sink(lost)
	f.launch(lost, t.TempDir(), cdn.Config{})
	f.until(func() error { return f.whole("/f", 2) })
	require.Equal(t, copiesOf(rec), copiesOf(f.record("/f")))
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}

func TestWhoComesBackAnnouncesAndServes(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	f.until(func() error { return f.whole("/f", 2) })
	gone := rec.GetReplicas()[0]
	home := f.ships[gone].home
	f.sink(gone)
	f.until(func() error { return f.whole("/f", 2) })
	require.NotContains(t, copiesOf(f.record("/f")), gone)
	f.launch(gone, home, quick())
	f.until(func() error { return f.whole("/f", 3) })
	require.Contains(t, copiesOf(f.record("/f")), gone)
	// And when it is the only one that is left, it is asked for the task.
	for id := range f.ships {
		if id != gone {
			f.sink(id)
		}
	}
	f.until(func() error { return f.whole("/f", 1) })
	now := f.record("/f")
	require.Equal(t, []string{gone}, copiesOf(now))
	require.NoError(t, f.fetch(now))
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}

func TestDrainMovesEverything(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	const tasks = 20
	for i := range tasks {
		path := fmt.Sprint("/", i)
		f.origin.Put(path, origin.File{Content: origin.Content(10_000, uint64(i))})
		f.seed(path)
	}
	sent := f.origin.Total().BytesSent
	a := f.ships["a"]
	told, tell := context.WithCancel(t.Context())
	tell()
	require.NoError(t, a.service.Leaving(patience, a.announcer)(told))
	for i := range tasks {
		rec := f.record(fmt.Sprint("/", i))
		require.NotEqual(t, "a", rec.GetOwner())
		// It serves what it has for as long as it is there.
		stat, err := a.Stat(f.context(), &cdnv1.StatRequest{TaskId: rec.GetTaskId()})
		if slices.Contains(copiesOf(rec), "a") {
			require.NoError(t, err)
			require.NotNil(t, stat.GetResult())
		}
	}
	f.sink("a")
	for i := range tasks {
		f.until(func() error { return f.whole(fmt.Sprint("/", i), 2) })
	}
	require.Equal(t, sent, f.origin.Total().BytesSent)
}

func TestOnlyCopyIsMadeElsewhereBeforeItsInstanceLeaves(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.launch("a", t.TempDir(), quick())
	f.launch("b", t.TempDir(), quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	require.Empty(t, rec.GetReplicas())
	owner := f.ships[rec.GetOwner()]
	require.NoError(t, owner.announcer.Drain(f.context()))
	require.NoError(t, owner.service.Handover(f.context()))
	f.sink(owner.id)
	f.until(func() error { return f.whole("/f", 1) })
	require.NotEqual(t, owner.id, f.record("/f").GetOwner())
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}

func TestLonelyCDNLeavesAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	a := f.launch("a", t.TempDir(), quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	f.seed("/f")
	require.NoError(t, a.announcer.Drain(f.context()))
	require.NoError(t, a.service.Handover(f.context()))
	require.Equal(t, []string{"a"}, copiesOf(f.record("/f")))
}

func TestStoreThatWasEmptiedIsFilledByAnnouncements(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	const tasks = 10
	before := make(map[string]*registryv1.TaskRecord)
	for i := range tasks {
		path := fmt.Sprint("/", i)
		f.origin.Put(path, origin.File{Content: origin.Content(10_000, uint64(i))})
		f.seed(path)
	}
	for i := range tasks {
		path := fmt.Sprint("/", i)
		f.until(func() error { return f.whole(path, 2) })
		before[path] = f.record(path)
	}
	sent := f.origin.Total().BytesSent
	f.emptyStore()
	for path, rec := range before {
		// Who had it says so in time, though another copy may be made before.
		f.until(func() error {
			if err := f.whole(path, 2); err != nil {
				return err
			}
			for _, id := range copiesOf(rec) {
				if now := copiesOf(f.record(path)); !slices.Contains(now, id) {
					return fmt.Errorf("%s is not at %s, but at %v", path, id, now)
				}
			}
			return nil
		})
		now := f.record(path)
		require.GreaterOrEqual(t, now.GetEpoch(), rec.GetEpoch())
		require.Equal(t, rec.GetPieceSize(), now.GetPieceSize())
		require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, now.GetStatus())
	}
	require.Equal(t, sent, f.origin.Total().BytesSent)
}

func TestMarkedCDNGivesAwayWhatItOwns(t *testing.T) {
	t.Parallel()
	f := trio(t, quick())
	f.origin.Put("/f", origin.File{Content: origin.Content(fileSize, 1), ETag: `"1"`})
	rec := f.seed("/f")
	_, err := f.registry.DrainMember(f.context(), &registryv1.DrainMemberRequest{
		Role: registryv1.Role_ROLE_CDN, Id: rec.GetOwner(), Drain: true,
	})
	require.NoError(t, err)
	f.until(func() error {
		now := f.record("/f")
		if now.GetOwner() == rec.GetOwner() || len(copiesOf(now)) < 3 {
			return fmt.Errorf("the task is at %v", copiesOf(now))
		}
		return f.whole("/f", 3)
	})
	require.EqualValues(t, fileSize, f.origin.Total().BytesSent)
}
