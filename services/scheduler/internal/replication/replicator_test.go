package replication

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

func TestStandbyKnowsAllTasks(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newTestReplicator(t, cluster.Member{ID: "me"}, b.Member)
	tasks := make([]*fakeTask, 20)
	for i := range tasks {
		tasks[i] = &fakeTask{peers: i}
		s.Add(idOf(i), "http://source/f", &cdnv1.Source{Url: "http://user@source/f", Headers: []string{"A: b"}}, tasks[i])
	}
	r := b.requireReplicated(t, idOf(19), 19)
	require.Equal(t, "http://source/f", r.URL)
	require.Equal(t, []string{"A: b"}, r.Source.GetHeaders())
	require.EqualValues(t, 7, r.Update.Facts.Length)
	tasks[3].grow(2000) // several parts
	s.MarkChanged(idOf(3))
	b.requireReplicated(t, idOf(3), 2003)
	flush(t, s)
	s.Remove(idOf(3), tasks[4])
	s.Remove(idOf(4), tasks[4])
	flush(t, s)
	_, there := b.store.Get(idOf(4))
	require.False(t, there)
	b.requireReplicated(t, idOf(3), 2003)
}

func TestStandbyThatComesBackIsToldAnew(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(1))
	s, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{peers: 5}
	s.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 5)
	b.stop()
	again := newStandby(t, "b", b.Endpoint)
	again.requireReplicated(t, idOf(1), 5)
	m.grow(1)
	s.MarkChanged(idOf(1))
	again.requireReplicated(t, idOf(1), 6)
}

func TestTasksMoveWithTheMembers(t *testing.T) {
	t.Parallel()
	b, c := newStandby(t, "b", "127.0.0.1:0"), newStandby(t, "c", "127.0.0.1:0")
	s, m := newTestReplicator(t, b.Member)
	const n = 50
	for i := range n {
		s.Add(idOf(i), "u", nil, &fakeTask{peers: 1})
	}
	for i := range n {
		b.requireReplicated(t, idOf(i), 1)
	}
	m.set(b.Member, c.Member)
	var moved, stayed []string
	for i := range n {
		to, ok := s.Standby(idOf(i))
		require.True(t, ok)
		if to.ID != "c" {
			stayed = append(stayed, idOf(i))
			continue
		}
		moved = append(moved, idOf(i))
		c.requireReplicated(t, idOf(i), 1)
	}
	require.NotEmpty(t, moved)
	flush(t, s)
	for _, id := range moved {
		b.requireReplicated(t, id, 1)
	}
	b.store.Prune(time.Now().Add(Retention))
	for _, id := range moved {
		require.False(t, b.store.Has(id), "it is told to another")
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

// One that was restarted knows nothing of a task that nothing happens to.
func TestNothingIsKnownToAStandbyThatIsAway(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", ownAddress(2))
	s, _ := newTestReplicator(t, b.Member)
	s.Add(idOf(1), "u", nil, &fakeTask{peers: 5})
	b.requireReplicated(t, idOf(1), 5)
	flush(t, s)
	b.stop()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.backlog() == 1
	}, testTimeout, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Flush(ctx), context.DeadlineExceeded)
	again := newStandby(t, "b", b.Endpoint)
	flush(t, s)
	r, _ := again.store.Get(idOf(1))
	require.Len(t, r.Update.Peers, 5)
}

// What nobody else was told yet must not be forgotten by who knows it.
func TestStandbyKeepsATaskThatItsSuccessorIsNotToldOf(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(b cluster.Member) []cluster.Member{
		"nobody is left to be told": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b}
		},
		"it is out of reach": func(b cluster.Member) []cluster.Member {
			b.Draining = true
			return []cluster.Member{b, {ID: "c", Endpoint: "127.0.0.1:1"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newStandby(t, "b", "127.0.0.1:0")
			s, m := newTestReplicator(t, b.Member)
			s.Add(idOf(1), "u", nil, &fakeTask{peers: 1})
			b.requireReplicated(t, idOf(1), 1)
			m.set(later(b.Member)...)
			require.Eventually(t, func() bool { // b has been told
				s.mu.Lock()
				defer s.mu.Unlock()
				l := s.streams["b"]
				return s.tasks[idOf(1)].stream != l && l.backlog() == 0
			}, testTimeout, time.Millisecond)
			b.requireReplicated(t, idOf(1), 1)
			b.store.Prune(time.Now().Add(Retention))
			require.False(t, b.store.Has(idOf(1)), "nobody tells of it any more")
		})
	}
}

// A standby that hangs costs nobody anything but what it does not know, and
// that is told at once when it goes on.
func TestStandbyThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{}
	s.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 0)
	b.mu.Lock()
	b.hung = make(chan struct{})
	b.mu.Unlock()
	for range 1000 {
		m.grow(1)
		s.MarkChanged(idOf(1))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Flush(ctx), context.DeadlineExceeded)
	b.mu.Lock()
	close(b.hung)
	b.hung = nil
	b.mu.Unlock()
	flush(t, s)
	b.requireReplicated(t, idOf(1), 1000)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Less(t, b.messages, 100, "changes are gathered")
}

// A task that was handed over is the standby's: what it was told of it stays.
func TestReleasedTaskIsRemembered(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newTestReplicator(t, b.Member)
	m := &fakeTask{peers: 3}
	s.Add(idOf(1), "u", nil, m)
	b.requireReplicated(t, idOf(1), 3)
	s.Release(idOf(1), m)
	flush(t, s)
	b.requireReplicated(t, idOf(1), 3)
	b.store.Prune(time.Now().Add(Retention + time.Minute))
	_, there := b.store.Get(idOf(1))
	require.False(t, there, "nobody tells of it any more")
}

// Who does not know yet what a task is must not replace what is known of it.
func TestTaskWithoutFactsIsNotTold(t *testing.T) {
	t.Parallel()
	b := newStandby(t, "b", "127.0.0.1:0")
	s, _ := newTestReplicator(t, b.Member)
	blank := &fakeTask{noFacts: true, peers: 1}
	s.Add(idOf(1), "u", nil, blank)
	s.Add(idOf(2), "u", nil, &fakeTask{peers: 2})
	b.requireReplicated(t, idOf(2), 2)
	flush(t, s)
	_, there := b.store.Get(idOf(1))
	require.False(t, there)
	blank.mu.Lock()
	blank.noFacts = false
	blank.mu.Unlock()
	s.MarkChanged(idOf(1))
	b.requireReplicated(t, idOf(1), 1)
}
