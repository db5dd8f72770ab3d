package dfget

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
)

const (
	// maxListingBytes limits the size of one answer of a scheduler, in bytes.
	maxListingBytes = 64 << 20
	// maxListingPieces is the number of pieces from which on no more is read from a
	// scheduler. A scheduler truncates an answer at the same number.
	maxListingPieces = 200_000
)

// FetchNetwork merges the listings of all schedulers. A scheduler that does not
// answer in time is left out. There are fewer nodes than asked for if they have too
// many pieces, but at least one unless there are no more.
func (s *Service) FetchNetwork(ctx context.Context, in *dfgetv1.FetchNetworkRequest) (*dfgetv1.FetchNetworkResponse, error) {
	l, err := request.NewListing(in)
	if err != nil {
		return nil, statusError(err)
	}
	budget, cancel := context.WithTimeout(ctx, s.cfg.CallBudget)
	defer cancel()
	nodes, err := s.network(budget, l)
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if err != nil {
		return nil, statusError(err)
	}
	return &dfgetv1.FetchNetworkResponse{Code: codeSuccess, Data: &dfgetv1.NetworkData{Nodes: nodes}}, nil
}

// network returns the nodes of a listing. A node may have entries at several schedulers,
// and several at each, so how many entries precede a node is known only once the ids
// before it have been merged. These are read first, without pieces, if any node is to be
// skipped.
func (s *Service) network(ctx context.Context, l request.Listing) ([]*dfgetv1.NetworkNode, error) {
	var skipped map[string]entryRange // by scheduler; nil if no node is skipped
	first, last := "", ""
	switch {
	case l.Start >= request.MaxSkipped:
		return nil, nil
	case l.Start > 0:
		ids, err := s.listIDs(ctx, l)
		if err != nil {
			return nil, err
		}
		page := pageOf(ids, l)
		if len(page) == 0 {
			return nil, nil
		}
		first, last = page[0], page[len(page)-1]
		skipped = make(map[string]entryRange, len(ids))
		for id, list := range ids {
			skipped[id] = rangeOf(list, first, last)
		}
	}
	var (
		mu    sync.Mutex // guards nodes and cuts
		nodes = make(map[string]*dfgetv1.NetworkNode)
		cuts  []string
	)
	err := s.router.Each(ctx, listingAttempt, func(ctx context.Context, scheduler string, conn grpc.ClientConnInterface) error {
		part := entryRange{count: l.Limit}
		if skipped != nil {
			part = skipped[scheduler]
		}
		if part.count == 0 {
			return nil
		}
		r := entryReader{client: schedulerv1.NewSchedulerServiceClient(conn), urls: l.URLs, nodes: l.Limit, last: last}
		if err := r.read(ctx, part); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range r.entries {
			if id := e.GetPeer().GetId(); id >= first && (last == "" || id <= last) {
				addEntry(nodes, e)
			}
		}
		if r.truncated && len(r.entries) > 0 {
			cuts = append(cuts, r.cut())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sortedNodes(nodes, cuts, l.Limit), nil
}

// listIDs returns the ids of the peers of the first entries of each scheduler, in the
// order of its listing: all those that may precede the end of the page.
func (s *Service) listIDs(ctx context.Context, l request.Listing) (map[string][]string, error) {
	var mu sync.Mutex // guards ids
	ids := make(map[string][]string)
	err := s.router.Each(ctx, listingAttempt, func(ctx context.Context, scheduler string, conn grpc.ClientConnInterface) error {
		list, err := readIDs(ctx, schedulerv1.NewSchedulerServiceClient(conn), l.URLs, min(l.Start+l.Limit, request.MaxSkipped))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		ids[scheduler] = list
		return nil
	})
	return ids, err
}

// readIDs returns the peers of a scheduler's first entries, until they are of the given
// number of nodes or the listing ends.
func readIDs(ctx context.Context, client schedulerv1.SchedulerServiceClient, urls []string, nodes int) (ids []string, err error) {
	for distinct := 0; distinct < nodes; {
		limit := nodes - distinct
		if len(ids) > 0 {
			limit = max(limit, moreEntries)
		}
		out, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{
			Urls: urls, Start: int32(len(ids)), Limit: int32(limit), IdsOnly: true,
		}, grpc.MaxCallRecvMsgSize(maxListingBytes))
		if err != nil {
			return nil, err
		}
		for _, e := range out.GetEntries() {
			id := e.GetPeer().GetId()
			if len(ids) == 0 || ids[len(ids)-1] != id {
				distinct++
			}
			ids = append(ids, id)
		}
		if len(out.GetEntries()) < limit {
			break
		}
	}
	return ids, nil
}

// pageOf returns the ids of the nodes of a page, sorted.
func pageOf(ids map[string][]string, l request.Listing) []string {
	var all []string
	for _, list := range ids {
		all = append(all, list...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	all = all[:min(l.Start+l.Limit, request.MaxSkipped, len(all))] // beyond, ids may be missing
	return all[min(l.Start, len(all)):]
}

// moreEntries is the least number of entries that is asked for after the first call,
// in which nodes had more than one: a node may have thousands.
const moreEntries = 500

// entryRange is a range of the entries in a scheduler's listing.
type entryRange struct{ start, count int }

// rangeOf returns the range of the entries whose peers have ids from first to last.
// ids are those of the first entries, sorted.
func rangeOf(ids []string, first, last string) entryRange {
	start, _ := slices.BinarySearch(ids, first)
	end, _ := slices.BinarySearch(ids, last+"\x00")
	return entryRange{start, end - start}
}

// entryReader reads a part of a scheduler's listing.
type entryReader struct {
	client schedulerv1.SchedulerServiceClient
	urls   []string
	// nodes is the number of nodes to read, and last the id of the last one, if that is
	// known. Their entries are complete once an entry of another node follows.
	nodes   int
	last    string
	entries []*schedulerv1.PeerEntry
	// truncated is set if the entries have too many pieces, so that the rest was not read.
	truncated bool
}

// read reads the entries of a range and those that follow, until the nodes are complete
// or the listing ends.
func (r *entryReader) read(ctx context.Context, part entryRange) error {
	pieces, distinct, last := 0, 0, ""
	for more := part.count + 1; more > 0; more = r.nodes + 1 - distinct {
		limit := min(more, request.MaxListing)
		if len(r.entries) > 0 {
			limit = min(max(more, moreEntries), request.MaxListing)
		}
		out, err := r.client.ListPeers(ctx, &schedulerv1.ListPeersRequest{
			Urls: r.urls, Start: int32(part.start + len(r.entries)), Limit: int32(limit),
		}, grpc.MaxCallRecvMsgSize(maxListingBytes))
		if err != nil {
			return err
		}
		for _, e := range out.GetEntries() {
			pieces += len(e.GetPieces())
			if id := e.GetPeer().GetId(); id != last || distinct == 0 {
				distinct, last = distinct+1, id
			}
		}
		r.entries = append(r.entries, out.GetEntries()...)
		switch {
		case distinct > r.nodes, r.last != "" && last > r.last:
			return nil
		case out.GetTruncated(), len(out.GetEntries()) == limit && pieces >= maxListingPieces:
			r.truncated = true
			return nil
		case len(out.GetEntries()) < limit:
			return nil
		}
	}
	return nil
}

// cut returns the id from which on nodes are incomplete. There must be entries. The last node may have further
// entries. It counts as complete if it is the only one: a client that asks for the
// following nodes must get ahead.
func (r *entryReader) cut() string {
	last := r.entries[len(r.entries)-1].GetPeer().GetId()
	if r.entries[0].GetPeer().GetId() == last {
		return last + "\x00"
	}
	return last
}

// sortedNodes returns up to limit nodes below all cuts, in the order of their ids.
func sortedNodes(nodes map[string]*dfgetv1.NetworkNode, cuts []string, limit int) []*dfgetv1.NetworkNode {
	sorted := make([]*dfgetv1.NetworkNode, 0, len(nodes))
	for _, n := range nodes {
		if len(cuts) > 0 && n.GetBasic().GetId() >= slices.Min(cuts) {
			continue
		}
		slices.SortFunc(n.GetTasks(), func(a, b *dfgetv1.NetworkTask) int {
			return cmp.Compare(a.GetTask().GetId(), b.GetTask().GetId())
		})
		sorted = append(sorted, n)
	}
	slices.SortFunc(sorted, func(a, b *dfgetv1.NetworkNode) int {
		return cmp.Compare(a.GetBasic().GetId(), b.GetBasic().GetId())
	})
	return sorted[:min(limit, len(sorted))]
}

// addEntry adds a task of a peer to the node of the peer.
func addEntry(nodes map[string]*dfgetv1.NetworkNode, e *schedulerv1.PeerEntry) {
	p := e.GetPeer()
	n := nodes[p.GetId()]
	if n == nil {
		n = &dfgetv1.NetworkNode{
			Basic: &dfgetv1.NetworkPeer{
				Id: p.GetId(), Ip: p.GetIp(), Port: p.GetPort(), HostName: p.GetHostName(), Version: p.GetVersion(),
			},
			Extra: &dfgetv1.NetworkExtra{},
		}
		nodes[p.GetId()] = n
	}
	n.Load += e.GetLoad()
	task := &dfgetv1.NetworkTask{Task: &dfgetv1.NetworkTaskInfo{
		Id: e.GetTaskId(), TaskUrl: e.GetTaskUrl(), PieceSize: e.GetPieceSize(),
		FileLength: e.GetLength(), Path: p.GetPath(),
	}}
	for _, num := range e.GetPieces() {
		task.Pieces = append(task.Pieces, &dfgetv1.NetworkPiece{
			PieceNum: num, PieceRange: piece.Range(num, e.GetPieceSize()),
		})
	}
	n.Tasks = append(n.Tasks, task)
}
