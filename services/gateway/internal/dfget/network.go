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

// maxListing limits the size of one scheduler's listing, in bytes.
const maxListing = 64 << 20

// FetchNetwork merges the listings of all schedulers. A scheduler that does not
// answer in time is left out.
func (s *Service) FetchNetwork(ctx context.Context, in *dfgetv1.FetchNetworkRequest) (*dfgetv1.FetchNetworkResponse, error) {
	l, err := request.NewListing(in)
	if err != nil {
		return nil, statusError(err)
	}
	budget, cancel := context.WithTimeout(ctx, s.cfg.CallBudget)
	defer cancel()
	ask := &schedulerv1.ListPeersRequest{Urls: l.URLs, Limit: int32(min(l.Start+l.Limit, request.MaxListing))}
	var (
		mu    sync.Mutex // guards nodes
		nodes = make(map[string]*dfgetv1.NetworkNode)
	)
	err = s.router.Each(budget, listingAttempt, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		client := schedulerv1.NewSchedulerServiceClient(conn)
		out, err := client.ListPeers(ctx, ask, grpc.MaxCallRecvMsgSize(maxListing))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range out.GetEntries() {
			addEntry(nodes, e)
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if err != nil {
		return nil, statusError(err)
	}
	return &dfgetv1.FetchNetworkResponse{
		Code: codeSuccess, Data: &dfgetv1.NetworkData{Nodes: page(nodes, l.Start, l.Limit)},
	}, nil
}

// page returns up to limit nodes from start on, in the order of their ids.
func page(nodes map[string]*dfgetv1.NetworkNode, start, limit int) []*dfgetv1.NetworkNode {
	sorted := make([]*dfgetv1.NetworkNode, 0, len(nodes))
	for _, n := range nodes {
		slices.SortFunc(n.GetTasks(), func(a, b *dfgetv1.NetworkTask) int {
			return cmp.Compare(a.GetTask().GetId(), b.GetTask().GetId())
		})
		sorted = append(sorted, n)
	}
	slices.SortFunc(sorted, func(a, b *dfgetv1.NetworkNode) int {
		return cmp.Compare(a.GetBasic().GetId(), b.GetBasic().GetId())
	})
	sorted = sorted[min(start, len(sorted)):]
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
