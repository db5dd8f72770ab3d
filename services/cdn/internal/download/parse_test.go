package download

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/taskid"
)

func FuzzParsePath(f *testing.F) {
	id := taskid.Compute("http://127.0.0.1/", "", "", nil)
	for _, seed := range []string{
		"/download/" + id[:3] + "/" + id, "/download/" + id[:2] + "/" + id, "/download//" + id, "/download/../" + id,
		"/download/" + id[:3] + "/../" + id, "/download/" + id[:3] + "/" + id + "/", "", "/", "/download/abc/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		found, ok := parsePath(p)
		if !ok {
			return
		}
		require.NoError(t, taskid.Check(string(found)))
		require.Equal(t, p, "/download/"+string(found[:3])+"/"+string(found), "a task has one path")
		require.Equal(t, p, path.Clean(p))
	})
}

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{
		"bytes=0-4194303", "bytes=5-", "bytes=-5", "bytes=9-1", "bytes=0-0,2-3", "bytes=+1-2", "bytes=00-1", "0-1",
		"bytes=0-9223372036854775807", "bytes=0-9223372036854775808", "bytes=-", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, err := parseRange(header)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, first, int64(0))
		require.GreaterOrEqual(t, last, first)
		if !strings.Contains(header, "=0") && !strings.Contains(header, "-0") && last != toEnd { // leading zeros are accepted
			require.Equal(t, header, fmt.Sprintf("bytes=%d-%d", first, last))
		}
	})
}
