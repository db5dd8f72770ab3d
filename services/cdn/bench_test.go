package cdn_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"testing"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// BenchmarkFetch measures the fetch of 200 MB from a local source to the disk, until the
// listener has received the last event.
func BenchmarkFetch(b *testing.B) {
	content := randomContent(200 << 20)
	o := serveOrigin(b, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = io.Copy(w, bytes.NewReader(content))
	})
	n := start(b, cdn.Config{})
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		id := idOf(strconv.Itoa(i))
		if _, err := n.seed(b, id, o.source()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := n.Delete(b.Context(), &cdnv1.DeleteRequest{TaskId: id}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkFetchSmall measures the fetch of 300 KB, whose time is mostly overhead.
func BenchmarkFetchSmall(b *testing.B) {
	content := randomContent(300_000)
	o := serveOrigin(b, plainFile(content))
	n := start(b, cdn.Config{})
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		if _, err := n.seed(b, idOf(strconv.Itoa(i)), o.source()); err != nil {
			b.Fatal(err)
		}
	}
}
