package replication

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

func TestAllTasksAreReplicatedToTheStandby(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, cluster.Member{ID: "me"}, b.Member)
	tasks := make([]*fakeTask, 20)
	for i := range tasks {
		tasks[i] = &fakeTask{peers: i}
		r.Add(idOf(i), "http://source/f", &cdnv1.Source{Url: "http://user@source/f", Headers: []string{"A: b"}}, tasks[i])
	}
	state := b.requireReplicated(t, idOf(19), 19)
	require.Equal(t, "http://source/f", state.URL)
	require.Equal(t, []string{"A: b"}, state.Source.GetHeaders())
	require.EqualValues(t, 7, state.Update.Facts.Length)
	tasks[3].grow(2000) // several parts
	r.MarkChanged(idOf(3))
	b.requireReplicated(t, idOf(3), 2003)
	flush(t, r)
	r.Remove(idOf(3), tasks[4])
	r.Remove(idOf(4), tasks[4])
	flush(t, r)
	_, ok := b.store.Get(idOf(4))
	require.False(t, ok)
	b.requireReplicated(t, idOf(3), 2003)
}

func TestRestartedStandbyReceivesFullUpdates(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(1))
	r, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{peers: 5}
	r.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 5)
	b.stop()
	again := newStandby(t, "b", b.Endpoint)
	again.requireReplicated(t, idOf(1), 5)
	m.grow(1)
	r.MarkChanged(idOf(1))
	again.requireReplicated(t, idOf(1), 6)
}

func TestTasksAreReplicatedToANewStandbyWhenTheMembersChange(t *testing.T) {
	t.Parallel()
	b, c := newStandby(t, "b", "127.0.0.1:0"), newStandby(t, "c", "127.0.0.1:0")
	r, m := newTestReplicator(t, b.Member)
	const n = 50
	for i := range n {
		r.Add(idOf(i), "u", nil, &fakeTask{peers: 1})
	}
	for i := range n {
		b.requireReplicated(t, idOf(i), 1)
	}
	m.set(b.Member, c.Member)
	var moved, stayed []string
	for i := range n {
		to, ok := r.Standby(idOf(i))
		require.True(t, ok)
		if to.ID != "c" {
			stayed = append(stayed, idOf(i))
			continue
		}
		moved = append(moved, idOf(i))
		c.requireReplicated(t, idOf(i), 1)
	}
	require.NotEmpty(t, moved)
	flush(t, r)
	for _, id := range moved {
		b.requireReplicated(t, id, 1)
	}
	b.store.Prune(time.Now().Add(Retention))
	for _, id := range moved {
		require.False(t, b.store.Has(id), "another scheduler is its standby")
	}
	for _, id := range stayed {
		require.True(t, b.store.Has(id))
	}
	draining := c.Member
	draining.Draining = true
	m.set(b.Member, draining)
	for i := range n {
		b.requireReplicated(t, idOf(i), 1)
	}
}

// A restarted standby has no replica, even of a task that does not change.
func TestNothingCountsAsReplicatedWhileTheStandbyIsUnavailable(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(2))
	r, _ := newTestReplicator(t, b.Member)
	r.Add(idOf(1), "u", nil, &fakeTask{peers: 5})
	b.requireReplicated(t, idOf(1), 5)
	flush(t, r)
	b.stop()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.backlog() == 1
	}, testTimeout, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Flush(ctx), context.DeadlineExceeded)
	again := newStandby(t, "b", b.Endpoint)
	flush(t, r)
	state, _ := again.store.Get(idOf(1))
	require.Len(t, state.Update.Peers, 5)
}

// The new standby has no replica yet, so the previous one must not delete its own.
func TestFormerStandbyKeepsItsReplicaUntilRetentionEnds(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(b cluster.Member) []cluster.Member{
		"there is no other standby": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b}
		},
		"the new standby is out of reach": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b, {ID: "c", Endpoint: "127.0.0.1:1"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newStandby(t, "b", "127.0.0.1:0")
			r, m := newTestReplicator(t, b.Member)
			r.Add(idOf(1), "u", nil, &fakeTask{peers: 1})
			b.requireReplicated(t, idOf(1), 1)
			m.set(later(b.Member)...)
			require.Eventually(t, func() bool { // b has confirmed the release
				r.mu.Lock()
				defer r.mu.Unlock()
				toB := r.streams["b"]
				return r.tasks[idOf(1)].stream != toB && toB.backlog() == 0
			}, testTimeout, time.Millisecond)
			b.requireReplicated(t, idOf(1), 1)
			b.store.Prune(time.Now().Add(Retention))
			require.False(t, b.store.Has(idOf(1)), "no stream updates it any more")
		})
	}
}

// When the standby resumes, it receives all that has changed in the meantime.
func TestHangingStandbyDoesNotBlockChanges(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{}
	r.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 0)
	b.mu.Lock()
	b.hung = make(chan struct{})
	b.mu.Unlock()
	for range 1000 {
		m.grow(1)
		r.MarkChanged(idOf(1))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Flush(ctx), context.DeadlineExceeded)
	b.mu.Lock()
	close(b.hung)
	b.hung = nil
	b.mu.Unlock()
	flush(t, r)
	b.requireReplicated(t, idOf(1), 1000)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Less(t, b.messages, 100, "changes are gathered into few messages")
}

// The standby answers for a task that was handed over and restores it from its replica.
func TestStandbyKeepsTheReplicaOfAReleasedTask(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{peers: 3}
	r.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 3)
	r.Release(idOf(1), m)
	flush(t, r)
	b.requireReplicated(t, idOf(1), 3)
	b.store.Prune(time.Now().Add(Retention + time.Minute))
	_, ok := b.store.Get(idOf(1))
	require.False(t, ok, "no stream updates it any more")
}

// The task may turn out to belong to another scheduler, whose replica must not be
// replaced by an empty one.
func TestTaskIsNotReplicatedUntilItsFactsAreKnown(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, b.Member)
	withoutFacts := &fakeTask{noFacts: true, peers: 1}
	r.Add(idOf(1), "u", nil, withoutFacts)
	r.Add(idOf(2), "u", nil, &fakeTask{peers: 2})
	b.requireReplicated(t, idOf(2), 2)
	flush(t, r)
	_, ok := b.store.Get(idOf(1))
	require.False(t, ok)
	withoutFacts.mu.Lock()
	withoutFacts.noFacts = false
	withoutFacts.mu.Unlock()
	r.MarkChanged(idOf(1))
	b.requireReplicated(t, idOf(1), 1)
}
