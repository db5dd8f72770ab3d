package swarm

// availability indexes the pieces of a task by how many copies of them there are
// at peers, so that the rarest are found without looking at all pieces. A copy is
// a holder that serves the piece, or a transfer that will make one.
//
//	absent --land--> fresh --a transfer begins--> underway --a peer serves it--> served
//	                   ^                             |                             |
//	                   +------- the last transfer or holder of it is lost ---------+
//
// Every change moves a piece by one list, in constant time.
type availability struct {
	pieces []pieceIndex // by number
	// fresh are the pieces without a copy: each leaves a CDN copy before any
	// other piece leaves one twice.
	fresh []int32
	// served are the pieces with at least one holder, by the number of copies. The
	// last list also has those with more.
	served [mostCopies + 1][]int32
	// lowest is a lower bound of the index of the first list in served that is
	// not empty.
	lowest int
}

// mostCopies is the highest number of copies that is told apart.
const mostCopies = 64

// pieceIndex is a piece's place in the lists.
type pieceIndex struct {
	stage     pieceStage
	holders   int32 // peers that serve it
	transfers int32 // transfers that will make a holder
	list      int32 // index in served
	position  int32 // in its list
}

// pieceStage says how far a piece has come.
type pieceStage uint8

const (
	absent   pieceStage = iota // it has not landed
	fresh                      // no peer has it, or is about to
	underway                   // it is on its way to a peer, and no peer serves it
	served                     // a peer serves it
)

func (a *availability) at(num int32) *pieceIndex {
	for int(num) >= len(a.pieces) {
		a.pieces = append(a.pieces, pieceIndex{})
	}
	return &a.pieces[num]
}

// stage returns the stage of a piece, absent for one that is not known.
func (a *availability) stage(num int32) pieceStage {
	if int(num) >= len(a.pieces) {
		return absent
	}
	return a.pieces[num].stage
}

// copies returns the number of copies of a piece at peers.
func (a *availability) copies(num int32) int32 {
	return a.pieces[num].holders + a.pieces[num].transfers
}

// land records that a piece exists. Holders and transfers that were counted
// before count from then on.
func (a *availability) land(num int32) {
	if p := a.at(num); p.stage == absent {
		a.enter(num, p)
	}
}

// change adds to the holders and to the transfers of a piece.
func (a *availability) change(num, holders, transfers int32) {
	p := a.at(num)
	if p.stage != absent {
		a.leave(p)
	}
	p.holders += holders
	p.transfers += transfers
	if p.stage != absent {
		a.enter(num, p)
	}
}

// enter puts a piece into the list of its number of copies.
func (a *availability) enter(num int32, p *pieceIndex) {
	switch {
	case p.holders > 0:
		p.stage, p.list = served, min(p.holders+p.transfers, mostCopies)
		a.lowest = min(a.lowest, int(p.list))
		p.position = appendTo(&a.served[p.list], num)
	case p.transfers > 0:
		p.stage = underway
	default:
		p.stage = fresh
		p.position = appendTo(&a.fresh, num)
	}
}

func appendTo(list *[]int32, num int32) (position int32) {
	*list = append(*list, num)
	return int32(len(*list) - 1)
}

// leave removes a piece from its list. The last piece of the list takes its place.
func (a *availability) leave(p *pieceIndex) {
	var list *[]int32
	switch p.stage {
	case fresh:
		list = &a.fresh
	case served:
		list = &a.served[p.list]
	default:
		return
	}
	last := len(*list) - 1
	moved := (*list)[last]
	(*list)[p.position] = moved
	a.pieces[moved].position = p.position
	*list = (*list)[:last]
}

// rarest returns the index of the first list in served that is not empty,
// mostCopies+1 if all are.
func (a *availability) rarest() int {
	for a.lowest <= mostCopies && len(a.served[a.lowest]) == 0 {
		a.lowest++
	}
	return a.lowest
}
