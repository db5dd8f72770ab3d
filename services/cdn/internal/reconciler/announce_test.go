package reconciler_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func TestCopiesWithoutARecordAreAnnounced(t *testing.T) {
	t.Parallel()
	part, old, same := inventoryOf("part"), inventoryOf("old"), inventoryOf("same")
	part.Whole, part.Pieces = false, 3
	h := start(t, never, inventoryOf("a"), inventoryOf("named"), part, old, same)
	announced := make(chan []string, 10)
	answer := &announce{
		Records:  []*record{newRecord("a", 4, self), newRecord("not mine", 1, "x")},
		Unwanted: []string{idOf("part"), idOf("old"), idOf("same"), idOf("named"), idOf("not here")},
	}
	tries := 0
	h.onAnnounce = func(copies []*registryv1.Copy) (*announce, error) {
		if tries++; tries < 3 {
			return nil, rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no member yet")).Err()
		}
		var names []string
		for _, c := range copies {
			names = append(names, nameOf(c.GetTaskId()))
			if nameOf(c.GetTaskId()) == "a" {
				require.EqualValues(t, 3, c.GetEpoch())
				require.EqualValues(t, 11, c.GetPieces())
				require.EqualValues(t, 100, c.GetPieceSize())
				require.EqualValues(t, 1000, c.GetSource().GetLength())
				require.True(t, c.GetWhole())
			}
		}
		announced <- names
		return answer, nil
	}
	newer := newRecord("old", 2, "x", "y")
	newer.Source.Etag = `"2"`
	h.onCall("get old", func(int) (*record, error) { return newer, nil })
	h.onCall("get same", func(int) (*record, error) { return newRecord("same", 2, "x", "y"), nil })
	h.setMembers(self, "x", "y")
	h.sendTasks(t, recordsMessage(newRecord("named", 1, self, "x")))
	h.awaitStandings("named@1:self[x] ")
	require.Empty(t, announced, "the stream is not complete")
	h.sendTasks(t, completeMessage())
	require.ElementsMatch(t, []string{"a", "part", "old", "same"}, <-announced)
	h.awaitStandings("a@4:self[] named@1:self[x] ")
	h.eventually(func() bool { return h.callCount("get same") > 0 && h.callCount("get old") > 0 })

	// After an outage the store may have lost records.
	answer.Unwanted = nil
	h.breakStream()
	h.sendTasks(t, completeMessage())
	require.ElementsMatch(t, []string{"a", "named", "same"}, <-announced)
	h.recordingEngine.mu.Lock()
	defer h.recordingEngine.mu.Unlock()
	require.ElementsMatch(t, []string{"part", "old"}, h.discarded)
}

func TestAnnouncementsHaveABoundedNumberOfCopies(t *testing.T) {
	t.Parallel()
	var disk []task.Inventory
	for i := range 1200 {
		disk = append(disk, inventoryOf("t"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/26/26))))
	}
	h := start(t, never, disk...)
	sizes := make(chan int, 10)
	h.onAnnounce = func(copies []*registryv1.Copy) (*announce, error) {
		sizes <- len(copies)
		return &announce{}, nil
	}
	h.sendTasks(t, completeMessage())
	got := []int{<-sizes, <-sizes, <-sizes}
	slices.Sort(got)
	require.Equal(t, []int{200, 500, 500}, got)
}

func TestInstanceThatRejoinsAnnouncesAgain(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	announced := make(chan struct{}, 10)
	h.onAnnounce = func([]*registryv1.Copy) (*announce, error) {
		announced <- struct{}{}
		return &announce{}, nil
	}
	h.setMembers(self, "x")
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self)))
	h.awaitStandings("a@1:x[x] ")
	h.setMembers("x")
	h.sendTasks(t, &watchResponse{Gone: []string{idOf("a")}})
	h.awaitStandings("")
	h.setMembers(self, "x")
	<-announced
}

func TestAnnouncementsHaveABoundedSize(t *testing.T) {
	t.Parallel()
	const copies = 200
	var disk []task.Inventory
	for i := range copies {
		c := inventoryOf("t" + string(rune('a'+i%26)) + string(rune('a'+i/26)))
		c.URL = "http://origin/" + strings.Repeat("x", 32<<10)
		disk = append(disk, c)
	}
	h := start(t, never, disk...)
	type batch struct{ copies, bytes int }
	batches := make(chan batch, copies)
	h.onAnnounce = func(copies []*registryv1.Copy) (*announce, error) {
		batches <- batch{len(copies), proto.Size(&registryv1.AnnounceCopiesRequest{Copies: copies})}
		return &announce{}, nil
	}
	h.sendTasks(t, completeMessage())
	for announced := 0; announced < copies; {
		got := <-batches
		require.Less(t, got.bytes, 2<<20)
		announced += got.copies
	}
}
