package peer

import (
	"context"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// lieEvery is the mean number of pulls between two lies of a peer that lies.
const lieEvery = 4

// The lies of a peer. The server can believe the first two, and must refuse the
// other ones.
const (
	lieWrittenMissing    = iota // piece/suc for a piece that it does not have
	liePulledMissing            // the same with its next pull
	lieWrittenImpossible        // piece/suc for a piece that the task cannot have
	liePulledImpossible         // the same with its next pull
	lies
)

// lie makes a peer that lies do so now and then. It returns true if the next pull
// is to report what it returns instead of it.
func (p *Peer) lie(ctx context.Context, it item) (item, bool) {
	if it.result != wire.ResultSemi || p.random.IntN(lieEvery) > 0 {
		return it, false
	}
	what := p.random.IntN(lies)
	claimed := wire.Piece{Num: int32(p.random.IntN(len(p.pieces))), Size: p.size}
	switch what {
	case lieWrittenMissing, liePulledMissing:
		if p.pieces[claimed.Num] != missing {
			return it, false
		}
	default:
		if p.random.IntN(2) == 0 {
			claimed.Num += int32(len(p.pieces))
		} else {
			claimed.Size++
		}
	}
	if what == lieWrittenMissing || what == lieWrittenImpossible {
		p.reports.put(report{kind: reportWritten, lie: true, piece: claimed, from: it.from}, func() { p.sendReports(ctx) })
		return it, false
	}
	it.piece, it.result = claimed, wire.ResultSemi
	return it, true
}
