package peer

import (
	"context"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// failurePause is the time after which dfget reports that a download failed.
const failurePause = 20 * time.Millisecond

// outcome is what becomes of a download.
type outcome int

const (
	arrives  outcome = iota
	noAnswer         // the source does not answer
	wrong            // the source sends other bytes than announced
)

// start begins the downloads that the server offers. A piece that the peer has is
// reported again, one that it is downloading is ignored.
func (p *Peer) start(ctx context.Context, offers []wire.Offer) error {
	for _, o := range offers {
		if o.Size != p.size || int(o.Num) >= len(p.pieces) {
			return fmt.Errorf("an offer of piece %d of %d bytes; the task has %d pieces of %d bytes", o.Num, o.Size, len(p.pieces), p.size)
		}
		source := p.deps.Directory.find(o.Cid)
		it := item{piece: o.Piece, from: p.nameOf(o.Cid, source), status: wire.StatusRunning, result: wire.ResultSemi}
		switch p.pieces[o.Num] {
		case present:
			p.deps.Record.RepeatedOffers.Add(1)
			it.repeated = true
			p.queue.put(it)
		case running:
			p.deps.Record.RepeatedOffers.Add(1)
		case missing:
			p.pieces[o.Num] = running
			p.running++
			p.fetch(ctx, it, source)
		}
	}
	return nil
}

// nameOf returns a cid as a string, without memory of its own if possible.
func (p *Peer) nameOf(cid []byte, source *Peer) string {
	switch {
	case source != nil:
		return source.id.cid
	case string(cid) == p.cdn:
		return p.cdn
	}
	name := string(cid)
	if wire.IsCDN(name) {
		p.cdn = name
	}
	return name
}

// fetch downloads a piece: it waits, and then reports what came of it.
func (p *Peer) fetch(ctx context.Context, it item, source *Peer) {
	offered := &p.deps.Record.OfferedByPeers
	if wire.IsCDN(it.from) {
		offered = &p.deps.Record.OfferedByCDN
	}
	offered.Add(1)
	switch p.outcome(it, source) {
	case arrives:
		after(p.cfg.PieceTime, func() { p.arrive(ctx, it) })
	case wrong:
		after(p.cfg.PieceTime, func() {
			p.reports.put(report{kind: reportWrong, piece: it.piece, from: it.from}, func() { p.sendReports(ctx) })
			p.fail(it)
		})
	case noAnswer:
		p.fail(it)
	}
}

// outcome decides what becomes of a download. source is nil for a CDN and for a
// peer that does not serve any more.
func (p *Peer) outcome(it item, source *Peer) outcome {
	switch fromPeer := !wire.IsCDN(it.from); {
	case p.cfg.Fail > 0 && p.random.Float64() < p.cfg.Fail:
		return noAnswer
	case fromPeer && (source == nil || source.cfg.Unreachable):
		return noAnswer
	case fromPeer && !source.serves(it.piece.Num):
		return wrong
	}
	return arrives
}

// arrive puts a piece on the peer's virtual disk and reports it both ways.
func (p *Peer) arrive(ctx context.Context, it item) {
	p.written[it.piece.Num/bitsPerWord].Or(1 << (it.piece.Num % bitsPerWord))
	told := p.reports.put(report{kind: reportWritten, piece: it.piece, from: it.from}, func() { p.sendReports(ctx) })
	if !told {
		return // the download has ended
	}
	p.arrived.Add(1)
	if wire.IsCDN(it.from) {
		p.deps.Record.FromCDN.Add(1)
	} else {
		p.deps.Record.FromPeers.Add(1)
	}
	p.queue.put(it)
}

func (p *Peer) fail(it item) {
	p.deps.Record.FailedPieces.Add(1)
	it.result = wire.ResultFail
	after(failurePause, func() { p.queue.put(it) })
}

// after calls f when a time has passed, at once if it is 0.
func after(d time.Duration, f func()) {
	if d > 0 {
		time.AfterFunc(d, f)
		return
	}
	f()
}
