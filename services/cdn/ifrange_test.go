package cdn_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/cdn"
)

// A server that supports ranges but ignores If-Range answers with a range of its current
// version. The partial copy is then replaced, which is possible because it was not
// announced.
func TestRestartWithAChangedSourceThatIgnoresIfRange(t *testing.T) {
	content := randomContent(4 * full)
	id := idOf("part")
	for name, changed := range map[string][]byte{
		"another length": randomContent(4*full + 1), "the same length": randomContent(4 * full), "shorter than the part": randomContent(full),
	} {
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, nil)
			home, _ := homeWithPart(t, id, o, content, 2)
			o.set(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("If-Range")
				file(changed, `"v2"`)(w, r)
			})
			n := start(t, cdn.Config{HomeDir: home})
			n.mustSeed(t, id, o.source(), changed)
			require.Len(t, o.seen(), 3)
		})
	}
}
