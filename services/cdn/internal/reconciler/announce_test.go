package reconciler_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

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

// A registry without a store answers, but gives nothing to anybody.
func TestHandoverFailsIfTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	h.setMembers(self, "x")
	h.otherCDNs.addWhole("a")
	h.onCall("move@1 a", func(int) (*record, error) {
		return nil, rpcerr.Status(rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "the store is away")).Err()
	})
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x")))
	h.awaitStandings("a@1:self[x] ")
	require.ErrorContains(t, h.reconciler.Handover(t.Context()), "no registry answers")
}
