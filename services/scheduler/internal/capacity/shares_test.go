package capacity

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Unix(1_000_000, 0)

// takeAll takes until it is refused, and returns how often it was granted.
func takeAll(t *Task, name string, now time.Time) (n int) {
	for t.Take(name, now) {
		n++
	}
	return n
}

func TestTaskAloneTakesTheWholeWindow(t *testing.T) {
	s := NewShares()
	a := s.NewTask()
	require.Equal(t, Default, a.Free("cdn", start))
	require.Equal(t, Default, takeAll(a, "cdn", start), "before a window was granted")
	require.Equal(t, Default, takeAll(a, "other", start), "another instance has a window of its own")
	s.Grant("cdn", 20)
	require.Equal(t, 20, a.Window("cdn"))
	require.Equal(t, 12, a.Free("cdn", start))
	require.Equal(t, 12, takeAll(a, "cdn", start))
	s.Grant("cdn", 3)
	a.Release("cdn")
	require.False(t, a.Take("cdn", start), "19 are in flight")
	s.Reset("cdn")
	require.Equal(t, Default, a.Window("cdn"))
}

func TestDemandIsWhatIsInFlightAndWhetherMoreWasRefused(t *testing.T) {
	s := NewShares()
	a := s.NewTask()
	n, limited := s.Demand("cdn")
	require.Zero(t, n)
	require.False(t, limited)
	require.True(t, a.Take("cdn", start))
	n, limited = s.Demand("cdn")
	require.Equal(t, 1, n)
	require.False(t, limited)
	takeAll(a, "cdn", start)
	n, limited = s.Demand("cdn")
	require.Equal(t, Default, n)
	require.True(t, limited)
	_, limited = s.Demand("cdn")
	require.False(t, limited, "since the last call")
}

func TestEachTaskMayHaveOneTransfer(t *testing.T) {
	s := NewShares()
	s.Grant("cdn", 2)
	require.Equal(t, 2, takeAll(s.NewTask(), "cdn", start))
	for range 10 {
		late := s.NewTask()
		require.Equal(t, 1, late.Free("cdn", start))
		require.Equal(t, 1, takeAll(late, "cdn", start))
		require.Zero(t, late.Free("cdn", start))
	}
}

func TestTasksThatWantMoreGetEqualShares(t *testing.T) {
	s := NewShares()
	s.Grant("cdn", 9)
	a, b := s.NewTask(), s.NewTask()
	require.Equal(t, 9, takeAll(a, "cdn", start))
	require.Equal(t, 1, takeAll(b, "cdn", start))
	for range 9 { // as transfers end both ask for more, the one with more first
		a.Release("cdn")
		a.Take("cdn", start)
		b.Take("cdn", start)
	}
	n, _ := s.Demand("cdn")
	require.Equal(t, 9, n)
	require.Equal(t, 5, held(s, a, "cdn"))
	require.Equal(t, 4, held(s, b, "cdn"))
}

func held(s *Shares, t *Task, name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[name].uses[t].inFlight
}

func TestShareThatOthersDoNotUseIsTaken(t *testing.T) {
	s := NewShares()
	s.Grant("cdn", 10)
	a, idle := s.NewTask(), s.NewTask()
	require.True(t, idle.Take("cdn", start))
	require.Equal(t, 9, takeAll(a, "cdn", start), "the other has what it asked for")
	later := start.Add(recent)
	for range 9 {
		a.Release("cdn")
	}
	idle.Release("cdn")
	require.Equal(t, 10, a.Free("cdn", later), "the other asks no more")
}

func TestTaskThatEndsReturnsItsTransfers(t *testing.T) {
	s := NewShares()
	a, b := s.NewTask(), s.NewTask()
	takeAll(a, "cdn", start)
	takeAll(b, "cdn", start)
	a.Close()
	<-b.Wake()
	require.Equal(t, Default-1, takeAll(b, "cdn", start))
	b.Close()
	b.Release("cdn") // of a transfer that is not there
	require.Empty(t, s.instances)
	a.Close()
}

func TestRefusedTaskIsWokenWhenThereIsRoom(t *testing.T) {
	s := NewShares()
	a := s.NewTask()
	takeAll(a, "cdn", start)
	select {
	case <-a.Wake():
		require.Fail(t, "there is no room")
	default:
	}
	a.Release("cdn")
	<-a.Wake()
	takeAll(a, "cdn", start)
	s.Grant("cdn", Default+1)
	<-a.Wake()
	takeAll(a, "cdn", start)
	s.Grant("cdn", 2)
	s.Reset("cdn")
	<-a.Wake()
}

func TestWindowsThatCannotBeAreClamped(t *testing.T) {
	s := NewShares()
	a := s.NewTask()
	for window, want := range map[int]int{-1 << 40: 1, 0: 1, 1 << 40: most} {
		s.Grant("cdn", window)
		require.Equal(t, want, a.Window("cdn"))
	}
	s.Deliver("cdn", -5)
	require.Zero(t, a.Rate("cdn"))
	s.Deliver("cdn", 5)
	require.EqualValues(t, 5, a.Rate("cdn"))
	s.Reset("cdn")
	require.Zero(t, a.Rate("cdn"))
	require.Empty(t, s.instances)
}

func TestFreeIsWhatTakeGrants(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := NewShares()
	tasks := make([]*Task, 5)
	for i := range tasks {
		tasks[i] = s.NewTask()
	}
	now := start
	for range 20_000 {
		now = now.Add(time.Duration(random.IntN(200)) * time.Millisecond)
		task := tasks[random.IntN(len(tasks))]
		switch random.IntN(4) {
		case 0:
			s.Grant("cdn", random.IntN(20))
		case 1, 2:
			task.Release("cdn")
		default:
			free := task.Free("cdn", now)
			for range min(free, 1+random.IntN(5)) {
				require.True(t, task.Take("cdn", now))
				free--
			}
			if free == 0 {
				require.False(t, task.Take("cdn", now))
			}
		}
	}
	for _, task := range tasks {
		task.Close()
	}
	n, _ := s.Demand("cdn")
	require.Zero(t, n)
}

func TestTasksUseSharesAtTheSameTime(t *testing.T) {
	s := NewShares()
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			task := s.NewTask()
			defer task.Close()
			for i := range 500 {
				if task.Take("cdn", start.Add(time.Duration(i))) && i%3 > 0 {
					task.Release("cdn")
				}
				task.Free("cdn", start)
			}
		})
		work.Go(func() {
			for i := range 500 {
				s.Grant("cdn", i%20)
				s.Demand("cdn")
				if i%50 == 0 {
					s.Reset("cdn")
				}
			}
		})
	}
	work.Wait()
	s.Reset("cdn")
	require.Empty(t, s.instances)
}
