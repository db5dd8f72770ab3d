package gateway_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"
)

func entry(peer, task string, pieces ...int32) *schedulerv1.PeerEntry {
	return &schedulerv1.PeerEntry{
		Peer: &schedulerv1.Peer{Id: peer, Ip: "10.0.0.1", Port: 20000, Path: "/p"}, TaskId: task, TaskUrl: "http://h/",
		PieceSize: 4 << 20, Length: -1, Pieces: pieces, Load: 1,
	}
}

type listFunc = func(*schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error)

// listing returns the list function of a scheduler with these entries, which truncates
// an answer as a scheduler does.
func listing(entries ...*schedulerv1.PeerEntry) listFunc { return listingOf(200_000, entries...) }

func listingOf(maxPieces int, entries ...*schedulerv1.PeerEntry) listFunc {
	slices.SortFunc(entries, func(a, b *schedulerv1.PeerEntry) int {
		return cmp.Or(cmp.Compare(a.GetPeer().GetId(), b.GetPeer().GetId()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return func(in *schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error) {
		most := int32(10_000)
		if in.GetIdsOnly() {
			most = 100_000
		}
		if in.GetLimit() < 1 || in.GetLimit() > most || in.GetStart() < 0 || len(in.GetUrls()) != 1 {
			return nil, rpcerr.Invalid("%v", in)
		}
		left := entries[min(int(in.GetStart()), len(entries)):]
		left = left[:min(int(in.GetLimit()), len(left))]
		out := &schedulerv1.ListPeersResponse{}
		pieces := 0
		for _, e := range left {
			if in.GetIdsOnly() {
				out.Entries = append(out.Entries, &schedulerv1.PeerEntry{Peer: &schedulerv1.Peer{Id: e.GetPeer().GetId()}, TaskId: e.GetTaskId()})
				continue
			}
			pieces += len(e.GetPieces())
			if len(out.GetEntries()) > 0 && pieces > maxPieces {
				out.Truncated = true
				break
			}
			out.Entries = append(out.Entries, e)
		}
		return out, nil
	}
}

// page returns the nodes of a page, each as its id and those of its tasks.
func (gw *testGateway) page(start, limit int) []string {
	gw.t.Helper()
	a := gw.post(fmt.Sprintf("/peer/network?start=%d&limit=%d", start, limit), `{"urls":["http://h/"]}`)
	require.Equal(gw.t, 200, a.code(), a.raw)
	list := []string{}
	for _, n := range a.body["data"].(map[string]any)["nodes"].([]any) {
		node := n.(map[string]any)
		text := node["basic"].(map[string]any)["ID"].(string)
		for _, t := range node["tasks"].([]any) {
			text += " " + t.(map[string]any)["task"].(map[string]any)["ID"].(string)
		}
		list = append(list, text)
	}
	return list
}

func TestNetworkMergesAllSchedulersThatAnswer(t *testing.T) {
	gw := start(t, gateway.Config{},
		&scheduler{id: "s1", list: listing(entry("b", "t2"), entry("c", "t1"))},
		&scheduler{id: "s2", list: listing(entry("a", "t1", 1), entry("b", "t1"))},
		&scheduler{id: "s3", list: func(*schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error) {
			return nil, errors.New("broken")
		}},
	)
	got := gw.post("/peer/network?start=0&limit=1", `{"urls":["http://h/"]}`)
	require.JSONEq(t, `{"code":200,"data":{"nodes":[{"basic":{"ID":"a","IP":"10.0.0.1","port":20000,"hostName":"","version":""},"extra":{},"load":1,
		"tasks":[{"task":{"ID":"t1","taskURL":"http://h/","pieceSize":4194304,"fileLength":-1,"path":"/p"},
		"pieces":[{"pieceNum":1,"pieceRange":"4194304-8388607"}]}]}]}}`, got.raw)
	got = gw.send(http.MethodPost, "/peer/network?START=1&limit=-1", "application/x-www-form-urlencoded", []byte(`{"URLs":["http://h/"]}`))
	nodes := got.body["data"].(map[string]any)["nodes"].([]any)
	require.Len(t, nodes, 2)
	require.Len(t, nodes[0].(map[string]any)["tasks"], 2)
	require.EqualValues(t, 2, nodes[0].(map[string]any)["load"])
	require.Empty(t, gw.post("/peer/network?start=99", `{"urls":["http://h/"]}`).body["data"].(map[string]any)["nodes"])
}

// The nodes of a page are those of the complete listing, wherever their entries are.
func TestNetworkHasPagesOverAllSchedulers(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	entries := make([][]*schedulerv1.PeerEntry, 2)
	nodes := make(map[string][]string)
	for i := range 300 {
		peer, task := fmt.Sprintf("p%03d", random.IntN(60)), fmt.Sprintf("t%03d", i)
		nodes[peer] = append(nodes[peer], task) // ascending
		at := random.IntN(len(entries))
		entries[at] = append(entries[at], entry(peer, task, 1, 2))
	}
	all := make([]string, 0, len(nodes))
	for peer, tasks := range nodes {
		for _, task := range tasks {
			peer += " " + task
		}
		all = append(all, peer)
	}
	slices.Sort(all)
	var schedulers []*scheduler
	for i, list := range entries {
		schedulers = append(schedulers, &scheduler{id: fmt.Sprint("s", i), list: listing(list...)})
	}
	gw := start(t, gateway.Config{}, schedulers...)
	for range 100 {
		start, limit := random.IntN(len(all)+5), 1+random.IntN(40)
		first := min(start, len(all))
		require.Equal(t, all[first:min(first+limit, len(all))], gw.page(start, limit), "start %d, limit %d", start, limit)
	}
	require.Equal(t, all, gw.page(0, 0))
	require.Empty(t, gw.page(100_000, 1))
}

// A scheduler cuts its answer when it has many pieces. The nodes that are listed are
// complete, and a client that goes on from there gets all of them.
func TestNetworkListsCompleteNodesWhenASchedulerTruncatesItsAnswer(t *testing.T) {
	var first, second []*schedulerv1.PeerEntry
	var all []string
	for i := range 30 {
		peer := fmt.Sprintf("p%02d", i)
		first = append(first, entry(peer, "t1", 1, 2, 3), entry(peer, "t2", 1))
		second = append(second, entry(peer, "t3", 1))
		all = append(all, peer+" t1 t2 t3")
	}
	for _, maxPieces := range []int{1, 4, 7, 10, 200} {
		gw := start(t, gateway.Config{},
			&scheduler{id: "s1", list: listingOf(maxPieces, first...)}, &scheduler{id: "s2", list: listing(second...)})
		got := []string{}
		for page := gw.page(0, 20); len(page) > 0; page = gw.page(len(got), 20) {
			got = append(got, page...)
		}
		if maxPieces > 4 {
			require.Equal(t, all, got)
		} else {
			require.Len(t, got, len(all), "a node whose own entries are too many is listed with some of them")
		}
	}
}

func TestNetworkAsksForNoMoreThanThePageNeeds(t *testing.T) {
	var entries []*schedulerv1.PeerEntry
	for i := range 1000 {
		entries = append(entries, entry(fmt.Sprintf("p%03d", i), "t1", 1))
	}
	s := &scheduler{id: "s1", list: listing(entries...)}
	gw := start(t, gateway.Config{}, s)
	asked := func() (list []string) {
		for _, c := range s.calls() {
			in := c.(*schedulerv1.ListPeersRequest)
			list = append(list, fmt.Sprintf("start %d limit %d ids only %t", in.GetStart(), in.GetLimit(), in.GetIdsOnly()))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.recorded = nil
		return list
	}
	require.Len(t, gw.page(0, 10), 10)
	require.Equal(t, []string{"start 0 limit 11 ids only false"}, asked())
	require.Len(t, gw.page(900, 10), 10)
	require.Equal(t, []string{"start 0 limit 910 ids only true", "start 900 limit 11 ids only false"}, asked())
	require.Len(t, gw.page(995, 10), 5)
	require.Equal(t, []string{"start 0 limit 1005 ids only true", "start 995 limit 6 ids only false"}, asked())
	require.Empty(t, gw.page(1000, 10))
	require.Equal(t, []string{"start 0 limit 1010 ids only true"}, asked())
}
