package bench

import (
	"sync"
	"testing"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

const (
	migrationPieces = 1000
	migrationSize   = 4 << 10 // of a wrapped piece: what is measured is all but the bytes
)

// BenchmarkMigration kills the supernode of a peer that has half of a file of
// a thousand small pieces. It goes on at another one, which has the file and
// was never told of the peer.
//   - first-new-ms: from its registration there to the first offer of a piece
//     that it lacks; first-new-pulls is the round trips until then;
//   - ms/had: from its registration to its end over the pieces that it had;
//   - ms/piece: the same over a piece before it migrated, when it had nothing;
//   - offers/had: how often it was offered what it had;
//   - waits: answers that had nothing to give.
func BenchmarkMigration(b *testing.B) {
	var sum migration
	b.StopTimer()
	for range b.N {
		m := migrate(b)
		sum.before += m.before
		sum.after += m.after
		sum.firstNew += m.firstNew
		sum.pullsToNew += m.pullsToNew
		sum.had += m.had
		sum.offered += m.offered
		sum.waits += m.waits
	}
	n, had := float64(b.N), float64(sum.had)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(sum.firstNew)/n, "first-new-ms")
	b.ReportMetric(float64(sum.pullsToNew)/n, "first-new-pulls")
	b.ReportMetric(milliseconds(sum.after)/had, "ms/had")
	b.ReportMetric(milliseconds(sum.before)/had, "ms/piece")
	b.ReportMetric(float64(sum.offered)/had, "offers/had")
	b.ReportMetric(float64(sum.waits)/n, "waits")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// migration is what a peer sees of one.
type migration struct {
	mu                      sync.Mutex // guards what follows
	began, moved            time.Time
	before, after, firstNew time.Duration
	had, arrived, offered   int
	pulls, pullsToNew       int
	waits                   int
}

func (m *migration) observe(e peer.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Kind {
	case peer.Registered:
		if m.began.IsZero() {
			m.began = e.Time
		}
	case peer.Arrived:
		if m.arrived++; m.arrived == migrationPieces/2 {
			m.before = e.Time.Sub(m.began)
		}
	case peer.Migrated:
		m.moved, m.had, m.pulls = e.Time, m.arrived, 0
	case peer.Pulled:
		m.pulls++
		if e.Code == 602 {
			m.waits++
		}
	case peer.Offered:
		switch {
		case m.moved.IsZero():
		case e.Here:
			m.offered++
		case m.firstNew == 0:
			m.firstNew, m.pullsToNew = e.Time.Sub(m.moved), m.pulls
		}
	default:
	}
}

func migrate(b *testing.B) *migration {
	b.Helper()
	file := cluster.NewCached("http://127.0.0.1:1/f", origin.Content(migrationPieces*(migrationSize-piece.WrapLength), 1), migrationSize)
	m := &migration{}
	end := cluster.Migrate(b, binaries, file, migrationPieces/2, peer.Config{Observe: m.observe})
	end.Second.Kill() // the next ones are measured without it
	m.after = end.Ended.Sub(m.moved)
	return m
}
