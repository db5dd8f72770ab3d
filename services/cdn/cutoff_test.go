package cdn_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// If a source with validators is interrupted and does not return in time, the pieces that
// were fetched are kept.
func TestCutOffSourceKeepsTheFetchedPieces(t *testing.T) {
	content := randomContent(3 * full)
	const sent = 2*full + 1000
	for name, c := range map[string]struct {
		then     http.HandlerFunc
		requests int
		reason   rpcerr.Reason
	}{
		"always down": {answer(http.StatusServiceUnavailable), 5, rpcerr.SourceUnreachable},
		"always cut": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 2*full, len(content)-1, len(content)))
			withValidators(cutAfter(content[2*full:], 100, nil))(&partial{w}, r)
		}, 4, rpcerr.SourceBroken},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, cdn.Config{})
			o := serveOrigin(t, firstThen(withValidators(cutAfter(content, sent, nil)), c.then))
			id := idOf("cut off")
			_, err := receiveAll(n.seedSmall(t, id, o.source()))
			requireReason(t, err, c.reason)
			require.Len(t, o.seen(), c.requests)
			o.set(file(content, `"v1"`))
			n.mustSeed(t, id, o.source(), content)
			require.Equal(t, []string{rangeOf(2, 3, len(content))}, o.ranges(c.requests))
		})
	}
}
